"""A `Runner` that uses the root helper, so that relayd itself needs no privileges.

The helper is `relayd.remote_run.helper.main`; see `relayd.remote_run.helper.protocol` for the
protocol.
"""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from relayd.errors import UNDECODABLE
from relayd.remote_run.commands.runner import Exit, Order, Output, RunnerError
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
from relayd.system.printable import printable
from relayd.system.shortage import words_of
from relayd.system.streams import read_exactly
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Seconds until the helper reports that the command runs, including its own start and all tries.
START_TIMEOUT_S: Final = 60.0
#: Seconds before each further try if the connection is closed without an answer: the service
#: manager does that while as many helpers as it allows have not quite ended.
_RETRIES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
CLOSE_TIMEOUT_S: Final = 2.0
_LOST: Final = Exit(-signal.SIGKILL, "the helper ended before the command did")


class HelperRunner:
    """Runs commands through the helper.

    Args:
        path: the helper's Unix socket.
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
        """See `relayd.remote_run.commands.runner.Runner.run`.

        When it is cancelled, the connection is closed; the helper then ends the command.
        """
        hosts = self._hosts(order)
        request = msgspec.json.encode({"hosts": hosts, "conditions": order.conditions}) + b"\n"
        try:
            with trio.fail_after(START_TIMEOUT_S):
                stream = await self._reach(request)
        except trio.TooSlowError:
            raise self._failure("timed out") from None
        try:
            task_status.started()
            return await self._follow(_Frames(stream), output)
        finally:
            await _close(stream)

    def _hosts(self, order: Order) -> list[str]:
        """Return the host names that the helper accepts: one bad name must not affect others."""
        hosts = [target.host for target in order.targets if HOST.fullmatch(target.host)]
        for target in order.targets:
            if not HOST.fullmatch(target.host):
                log.warning("host name not accepted by the helper; skipping", node=target.node)
        if not hosts:
            raise self._failure("no host name is accepted by the helper")
        return hosts

    async def _reach(self, request: bytes) -> trio.SocketStream:
        """Return a connection over which the command is running, after some tries."""
        for delay in (0.0, *_RETRIES_S):
            await trio.sleep(delay)
            stream = await self._open(request)
            if stream is not None:
                return stream
        raise self._failure("connection closed without an answer")

    async def _open(self, request: bytes) -> trio.SocketStream | None:
        """Return a connection over which the command is running; None if no helper answered."""
        try:
            stream = await trio.open_unix_socket(str(self._path))
        except OSError as error:
            raise self._failure(words_of(error) or "no connection") from error
        frame: _Frame | None = None
        frames = _Frames(stream)
        try:
            await stream.send_all(request)
            frame = await frames.next()
        except trio.BrokenResourceError:
            return None
        finally:
            if frame is None or frame.kind != STARTED:
                await _close(stream)
        if frame is None and not frames.begun:
            return None
        if frame is not None and frame.kind == REFUSED:
            detail = printable(frame.content.decode("utf-8", "replace"), SHOWN)
            raise self._failure(detail)
        if frame is None or frame.kind != STARTED:
            raise self._failure("protocol error")
        return stream

    async def _follow(self, frames: "_Frames", output: Output) -> Exit:
        while True:
            try:
                frame = await frames.next()
            except trio.BrokenResourceError:
                frame = None
            if frame is not None and frame.kind == OUTPUT:
                await output(frame.content)
                continue
            if frame is not None and frame.kind == ENDED:
                with suppress(*UNDECODABLE):
                    return msgspec.json.decode(frame.content, type=Exit)
            log.error("helper ended early", file=str(self._path))
            return _LOST

    def _failure(self, detail: str) -> RunnerError:
        """Log what is wrong with the helper, and return a shorter error for the client."""
        log.error("helper did not start the command", file=str(self._path), detail=detail)
        return RunnerError("the command could not be started: see the log")


class _Frame(NamedTuple):
    kind: bytes
    content: bytes


class _Frames:
    """Reads the helper's frames, one at a time and not a byte further.

    Attributes:
        begun: whether the head of a frame has arrived.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.begun = False

    async def next(self) -> _Frame | None:
        """Return the next frame; None at the end or if it is invalid."""
        header = await read_exactly(self._stream, FRAME.size)
        if header is None:
            return None
        self.begun = True
        kind, size = FRAME.unpack(header)
        content = await read_exactly(self._stream, size) if size <= MAX_CONTENT else None
        return None if content is None else _Frame(kind, bytes(content))


async def _close(stream: trio.SocketStream) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
        await stream.aclose()
