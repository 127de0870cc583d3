"""A `Runner` that asks the root helper: relayd itself needs no privileges then.

The helper is `relayd.remote_run.helper.main`; `relayd.remote_run.helper.protocol` is the protocol.
"""

import signal
from pathlib import Path
from typing import Final

import msgspec
import trio

from relayd.remote_run.by_command import Output
from relayd.remote_run.helper.protocol import (
    ENDED,
    FRAME,
    HOST,
    MAX_CONTENT,
    OUTPUT,
    REFUSED,
    SHOWN,
    STARTED,
)
from relayd.remote_run.runner import Exit, Order, RunnerError
from relayd.system.printable import printable
from relayd.system.streams import read_exactly
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Seconds until the helper has said that the command runs, its own start included.
START_TIMEOUT_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 2.0
_LOST: Final = Exit(-signal.SIGKILL, "the helper ended before the command did")


class HelperRunner:
    """Has the helper run the command.

    Args:
        path: of its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def run(
        self,
        order: Order,
        output: Output,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Exit:
        """See `relayd.remote_run.runner.Runner.run`.

        When it is cancelled, the connection is closed; the helper then ends the command.
        """
        hosts = self._hosts(order)
        request = msgspec.json.encode({"hosts": hosts, "conditions": order.conditions}) + b"\n"
        try:
            with trio.fail_after(START_TIMEOUT_S):
                stream = await self._open(request)
        except trio.TooSlowError:
            raise self._failure("no answer in time") from None
        try:
            task_status.started()
            return await self._follow(_Frames(stream), output)
        finally:
            await _close(stream)

    def _hosts(self, order: Order) -> list[str]:
        """Those whose names the helper takes: one odd name shall not cost all the others."""
        hosts = [target.host for target in order.targets if HOST.fullmatch(target.host)]
        for target in order.targets:
            if not HOST.fullmatch(target.host):
                log.warning("helper takes no such host name, left out", node=target.node)
        if not hosts:
            raise self._failure("no host name that the helper takes")
        return hosts

    async def _open(self, request: bytes) -> trio.SocketStream:
        """Return a connection over which the command is running."""
        try:
            stream = await trio.open_unix_socket(str(self._path))
        except OSError as error:
            raise self._failure(error.strerror or "no connection") from error
        begun = False
        try:
            await stream.send_all(request)
            kind, content = await _Frames(stream).next()
            begun = kind == STARTED
        except trio.BrokenResourceError as error:
            raise self._failure("connection lost") from error
        finally:
            if not begun:
                await _close(stream)
        if kind == REFUSED:
            detail = printable(content.decode("utf-8", "replace"), SHOWN)
            raise self._failure(detail)
        if kind != STARTED:
            raise self._failure("connection closed, or not the helper's protocol")
        return stream

    async def _follow(self, frames: "_Frames", output: Output) -> Exit:
        while True:
            try:
                kind, content = await frames.next()
            except trio.BrokenResourceError:
                kind, content = b"", b""
            if kind == OUTPUT:
                await output(content)
            elif kind == ENDED:
                return msgspec.json.decode(content, type=Exit)
            else:
                log.error("helper ended early", file=str(self._path))
                return _LOST

    def _failure(self, detail: str) -> RunnerError:
        """Log what is wrong with the helper, and says less of it to the client."""
        log.error("helper does not start the command", file=str(self._path), detail=detail)
        return RunnerError("the command could not be started: see the log")


class _Frames:
    """The helper's frames, each read as a whole and no byte further."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def next(self) -> tuple[bytes, bytes]:
        """Kind and content of the next frame; `b""` as kind at the end, or of what is none."""
        header = await read_exactly(self._stream, FRAME.size)
        if header is None:
            return b"", b""
        kind, size = FRAME.unpack(header)
        content = await read_exactly(self._stream, size) if size <= MAX_CONTENT else None
        return (b"", b"") if content is None else (kind, bytes(content))


async def _close(stream: trio.SocketStream) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
        await stream.aclose()
