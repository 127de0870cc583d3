"""The client of the control socket against a real one, and against what is none."""

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from quart import Blueprint, Response

from relayd.control.app import make_control_app
from relayd.control.audit import caller_name
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.control.requests import answering, read_body, read_query
from relayd.control.server import LIMITS, run_control
from relayd.errors import RelaydError
from tests.support.daemon import eventually


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    nodes: tuple[str, ...] = ()
    older: float = 0.0
    trial: bool = False


def _blueprint() -> Blueprint:
    routes = Blueprint("sample", __name__)

    @routes.get("/echo", endpoint="getEcho")
    @answering("getEcho")
    async def echo() -> object:
        return read_query(_Choice)

    @routes.post("/echo", endpoint="echo")
    @answering("echo")
    async def echo_body() -> object:
        return [await read_body(_Choice), await caller_name()]

    @routes.post("/fail", endpoint="fail")
    @answering("fail")
    async def fail() -> object:
        raise RelaydError("not now")

    @routes.post("/lines", endpoint="lines")
    async def lines() -> Response:
        return Response(b'{"line": 1}\n{"line": 2}\n', content_type="application/x-ndjson")

    return routes


@asynccontextmanager
async def _listening(path: Path, routes: Blueprint | None = None) -> AsyncIterator[Control]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        make = partial(make_control_app, [routes or _blueprint()])
        nursery.start_soon(run_control, path, make, stop, 1.0)
        await eventually(path.exists)
        yield Control(path)
        stop.set()


async def _in_thread(call: Any, *args: Any, **named: Any) -> Any:
    return await trio.to_thread.run_sync(partial(call, *args, **named))


async def test_parameters_arrive_typed_and_errors_come_back(place: Path) -> None:
    """What is asked for arrives as typed values; what is wrong with it is one line."""
    async with _listening(place / "control.sock") as control:
        query = {"nodes": ["a", "ü&b"], "older": 1.5, "trial": True}
        assert await _in_thread(control.get, "/echo", **query) == query
        assert await _in_thread(control.get, "/echo", nodes=(), older=None) == {
            "nodes": [],
            "older": 0.0,
            "trial": False,
        }
        (choice, name) = await _in_thread(control.post, "/echo", {"nodes": ["x"]})
        assert choice["nodes"] == ["x"]
        assert name
        assert [one["line"] for one in await _in_thread(_all_lines, control)] == [1, 2]
        for call, target, body, said in (
            (control.post, "/echo", {"nodes": 5}, r"body: Expected `array`, got `int`.*nodes"),
            (control.post, "/echo", {"nods": []}, r"body: .*unknown field `nods`"),
            (control.post, "/fail", {}, "not now"),
            (control.post, "/nothing", {}, r"not understood \(status 404\)"),
        ):
            with pytest.raises(ControlError, match=said):
                await _in_thread(call, target, body)
        with pytest.raises(ControlError, match=r"query: .*older"):
            await _in_thread(control.get, "/echo", older="long")


async def test_callers_beyond_the_limit_learn_why_and_silent_ones_give_way(place: Path) -> None:
    """Callers who say nothing keep no one out; with all answered, one more gets 503 and a line."""
    path = place / "control.sock"
    begun, end = [], trio.Event()
    routes = _blueprint()

    @routes.get("/slow", endpoint="slow")
    async def slow() -> str:
        begun.append(1)
        await end.wait()
        return ""

    async with _listening(path, routes) as control:
        with ExitStack() as stack:
            for number in range(3 * LIMITS.connections):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(path))
                if number % 2:
                    one.sendall(b"GET /echo HT")
            assert await _in_thread(control.get, "/echo") == {
                "nodes": [],
                "older": 0.0,
                "trial": False,
            }
            for _ in range(LIMITS.connections):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(path))
                one.sendall(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await eventually(lambda: len(begun) == LIMITS.connections)
            for ask in (partial(control.get, "/echo"), partial(control.post, "/echo", {})):
                with pytest.raises(ControlError, match=r"64 commands already.*ss -xp") as caught:
                    await _in_thread(ask)
                assert caught.value.status == 503
            end.set()


def test_a_full_queue_of_callers_is_waited_for(place: Path) -> None:
    """A command that cannot connect because too many others do waits for its turn."""
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        with pytest.raises(ControlError, match=r"has not answered .* for 0\.05 s"):
            Control(path, patience=0.05).get("/echo")


def _all_lines(control: Control) -> list[Any]:
    return list(control.lines("/lines", {}))


@pytest.mark.parametrize("state", ["missing", "stale", "off", "no answer", "no HTTP", "closed"])
def test_what_is_no_relayd_has_an_error_of_its_own(place: Path, state: str) -> None:
    """A missing relayd and a program that answers otherwise have different errors."""
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        if state not in {"missing", "off"}:
            listener.bind(str(path))
        if state == "stale":
            listener.close()
        control = Control(None if state == "off" else path, patience=0.05)
        if state in {"no HTTP", "closed"}:
            listener.listen()
            control = Control(path)
            answer = b"garbage\r\n\r\n" if state == "no HTTP" else b""
            threading.Thread(target=_answer_once, args=(listener, answer)).start()
        elif state == "no answer":
            listener.listen()
        expected = NotRunningError if state in {"missing", "stale", "off"} else ControlError
        with pytest.raises(expected) as caught:
            control.get("/echo")
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, NotPermittedError)


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(answer)


def test_an_answer_before_the_end_of_the_request_counts(place: Path) -> None:
    """Relayd turns callers away before it has read what they ask for; they learn why."""
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
        threading.Thread(target=_answer_once, args=(listener, answer)).start()
        with pytest.raises(NotPermittedError):
            Control(path).post("/echo", {"more": "than the kernel keeps" * 1_000_000})
