"""Node names for who may use the control socket, but not read main.conf."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import msgspec
import pytest

from relayd.commands import completion as module
from relayd.commands.completion import complete_node
from relayd.commands.installation import Installation
from relayd.overview.documents import as_document
from relayd.overview.nodes import NodeRow, NodesPage

ROWS = tuple(NodeRow(node_id=f"{n}-id", hostname=f"web-{n}.test") for n in (12, 13))


def answer_of(total: int) -> bytes:
    """Return what relayd answers that has this many nodes, two of which it names."""
    page = NodesPage(rows=ROWS, total=total, known=total, observed_s=0.0)
    return msgspec.json.encode({"data": as_document(page)})


@contextmanager
def listening(path: Path, body: bytes, pieces: int = 1) -> Iterator[None]:
    """Answer one caller; in so many pieces, a tenth of a second apart."""
    ended = threading.Event()

    def serve() -> None:
        caller, _ = server.accept()
        with caller, suppress(OSError):
            caller.recv(65_536)
            caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            size = -(-len(body) // pieces)
            for begin in range(0, len(body), size):
                caller.sendall(body[begin : begin + size])
                if pieces > 1 and ended.wait(0.1):
                    return

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        ended.set()
        thread.join()


def completed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is offered for `web` to who may not read main.conf."""
    site = Installation(directory / "socket", None, directory / "main.conf")
    monkeypatch.setattr(module, "find_installation", lambda _directory: site)
    context = click.Context(click.Command("node"))
    context.params["directory"] = directory
    return complete_node(context, click.Argument(["node"]), "web")


def test_relayd_is_asked_by_who_may_not_read_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names that begin with the word; with another patience than that of a prompt."""
    monkeypatch.setattr(module, "_PATIENCE_S", 30.0)
    with listening(tmp_path / "socket", answer_of(2)):
        assert completed(tmp_path, monkeypatch) == ["web-12.test", "web-13.test"]


@pytest.mark.parametrize("body", [answer_of(3), b"{}", b'{"data": {"rows": [1], "total": 1}}'])
def test_an_answer_with_gaps_or_of_another_kind_completes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """The shell would insert what some of the names have in common."""
    with listening(tmp_path / "socket", body):
        assert completed(tmp_path, monkeypatch) == []


def test_the_prompt_waits_for_no_slow_answer_and_for_no_relayd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is for the whole answer, not for each byte of it: this one would take a minute."""
    assert completed(tmp_path, monkeypatch) == []
    with listening(tmp_path / "socket", answer_of(2) + b" " * 600, pieces=600):
        begin = time.monotonic()
        assert completed(tmp_path, monkeypatch) == []
        assert time.monotonic() - begin < 30.0
