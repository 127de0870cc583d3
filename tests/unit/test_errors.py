"""The texts and attributes of relayd's own errors."""

import re
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest
from quart_trio import QuartTrio

import relayd
from relayd.control import client
from relayd.control.requests import BadRequestError, read_body
from relayd.errors import (
    ConfigError,
    ConfigWarning,
    DatabaseError,
    NodesError,
    PeerError,
    PeerStep,
    RelaydError,
    SettingError,
    StartError,
)
from relayd.pipelines.pausing import PauseError, PauseFile
from relayd.spool.layout import run_log_spool
from relayd.spool.operations.rules import read_rules
from relayd.telemetry.nodes import saved

FILE = Path("/etc/f")


@pytest.mark.parametrize(
    ("error", "text", "detail"),
    [
        (NodesError("cut off"), "cut off", "cut off"),
        (NodesError("cut off", file=FILE), "/etc/f: cut off", "cut off"),
        (ConfigError("no TOML", file=FILE, line=3), "/etc/f: no TOML", "no TOML"),
        (
            SettingError("a.b", "a table", "3", file=FILE),
            "/etc/f: a.b: expected a table, got 3",
            "a.b: expected a table, got 3",
        ),
        (
            SettingError("a.b", "a value", None),
            "a.b: expected a value, got nothing",
            "a.b: expected a value, got nothing",
        ),
        (StartError("no /etc/f", file=FILE, reason="gone"), "no /etc/f: gone", "no /etc/f: gone"),
        (PeerError("broke", "transient", PeerStep.ANSWER, file=FILE), "/etc/f: broke", "broke"),
        (DatabaseError("no", "operator", "42501"), "no", "no"),
    ],
)
def test_the_text_is_file_and_detail(error: RelaydError, text: str, detail: str) -> None:
    """The text names the file once; the detail leaves it out."""
    assert (str(error), error.detail) == (text, detail)


def test_the_text_of_a_warning_ends_with_its_suggestion() -> None:
    """The text of a configuration warning is file, detail and suggestion."""
    warning = ConfigWarning(kind="unknown_key", detail="unknown key a", suggestion="b", file=FILE)
    assert str(warning) == "/etc/f: unknown key a, did you mean b?"
    assert str(ConfigWarning(kind="unverified", detail="not verified")) == "not verified"


@pytest.mark.parametrize("step", PeerStep)
def test_only_an_identified_peer_was_reached(step: PeerStep) -> None:
    """A peer counts as reached once its certificate was accepted."""
    assert PeerError("x", "transient", step).reached == (step == "answer")


#: Too many levels for the interpreter.
_DEEP: Final = b'{"x": ' * 10_000


async def _read_pauses(place: Path, content: bytes) -> None:
    (place / "paused.json").write_bytes(content)
    with pytest.raises(PauseError, match=r"paused\.json is not a file of pauses"):
        PauseFile(place).read(0.0)


async def _read_rules(place: Path, content: bytes) -> None:
    spool = run_log_spool(place)
    spool.on_hold.mkdir()
    (spool.on_hold / "nodes.json").write_bytes(content)
    with pytest.raises(StartError, match=r"nodes\.json is not valid"):
        read_rules(spool)


async def _read_records(place: Path, content: bytes) -> None:
    body = b"\x81\xa3ids\xa1\xff" if b"\xff" in content else b"\x81\xa1x" * 10_000
    (place / saved.NAME).write_bytes(saved._MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)
    with pytest.raises(ValueError, match=r"."):
        saved.read_saved(place)


async def _read_request(_place: Path, content: bytes) -> None:
    class Body(msgspec.Struct):
        nodes: dict[str, int] = {}

    async with QuartTrio("sample").test_request_context("/", method="POST", data=content):
        with pytest.raises(BadRequestError, match=r"^body: ."):
            await read_body(Body)


async def _read_answer(_place: Path, content: bytes) -> None:
    with pytest.raises(client.ControlError, match="not understood"):
        client._data(200, content)


@pytest.mark.parametrize("content", [b'{"nodes": {"\xff": 1}, "paused": {"\xff": 1}}', _DEEP])
@pytest.mark.parametrize(
    "read",
    [_read_pauses, _read_rules, _read_records, _read_request, _read_answer],
)
async def test_data_that_cannot_be_decoded_is_an_error_of_the_reader(
    tmp_path: Path, read: Callable[[Path, bytes], Awaitable[None]], content: bytes
) -> None:
    """Text that is not UTF-8 and too many levels are wrong like any other fault of the data."""
    await read(tmp_path, content)


def test_no_reader_catches_a_part_of_what_cannot_be_decoded() -> None:
    """`msgspec.DecodeError` is one of three: who catches it catches `UNDECODABLE`."""
    package = Path(relayd.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\bmsgspec\.DecodeError\b", path.read_text())
    }
    assert found == {"errors.py"}
