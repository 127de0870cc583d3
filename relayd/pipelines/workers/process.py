"""One worker process, as the pool sees it: calls through pipes, timeouts, start and end."""

import fcntl
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import Final

import msgspec
import trio

from relayd.pipelines.workers.child import LENGTH_BYTES
from relayd.pipelines.workers.job import Examined
from relayd.system import utf8
from relayd.system.processes import is_stopped
from relayd.system.streams import read_exactly

COMMAND: Final = (sys.executable, *utf8.OPTIONS, "-m", "relayd.pipelines.workers.child")
CLEANUP_TIMEOUT_S: Final = 2.0
_PIPE_BYTES: Final = 2**20
#: Signals by which a process ends through what it does itself (signal(7)); any other comes from
#: outside: from the kernel when memory runs out, from a service manager or an operator.
_CRASHES: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)


class WorkerEndedError(Exception):
    """The worker process ended, or was killed after a timeout, before it answered.

    Attributes:
        processing: whether it was processing this call, which may be the cause. Otherwise the call
            was only waiting.
        killed: it was ended from outside, which says nothing about the call.
    """

    def __init__(self, *, processing: bool, killed: bool = False) -> None:
        super().__init__()
        self.processing = processing
        self.killed = killed


class Worker:
    """A worker process. It answers calls in order, so several can be pending.

    Args:
        process: a process of `relayd.pipelines.workers.child`, with pipes.
        lifeline: descriptor; closing it ends the process. `aclose` closes it.
        call_timeout_s: seconds for one call and for each pending one before it.
    """

    def __init__(self, process: trio.Process, lifeline: int, call_timeout_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin: trio.abc.SendStream = process.stdin
        self._stdout: trio.abc.ReceiveStream = process.stdout
        self._lifeline = lifeline
        self._call_timeout_s = call_timeout_s
        self._sending = trio.StrictFIFOLock()
        self._waiting: deque[_PendingCall] = deque()
        self._decoder = msgspec.msgpack.Decoder(list[Examined])
        self._timed_out = False
        self.alive = True

    async def call(self, frame: bytes) -> list[Examined]:
        """Send one frame and return the answer.

        Args:
            frame: jobs, or in the first call the setup, as MessagePack.

        Raises:
            WorkerEndedError: the worker ended or did not answer in time.
        """
        answer = _PendingCall()
        await self._send(frame, answer)
        with trio.move_on_after(self._call_timeout_s * (1 + len(self._waiting))) as scope:
            await answer.event.wait()
        if scope.cancelled_caught:
            self._timed_out = not is_stopped(self.process.pid)
            self.process.kill()
            await answer.event.wait()
        if answer.results is None:
            killed = answer.processing and await self._was_killed()
            raise WorkerEndedError(processing=answer.processing, killed=killed)
        return answer.results

    async def _was_killed(self) -> bool:
        """Return whether the process, whose output has ended, was ended from outside."""
        with trio.move_on_after(CLEANUP_TIMEOUT_S):
            await self.process.wait()
        code = self.process.returncode
        return code is not None and code < 0 and -code not in _CRASHES and not self._timed_out

    async def _send(self, frame: bytes, answer: "_PendingCall") -> None:
        async with self._sending:
            if not self.alive:
                raise WorkerEndedError(processing=False)
            self._waiting.append(answer)
            try:
                await self._stdin.send_all(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
            except trio.BrokenResourceError as error:
                raise WorkerEndedError(processing=False) from error
            except trio.Cancelled:
                # Part of a frame may be in the pipe, so the next frame would be misread.
                self.alive = False
                self.process.kill()
                raise

    async def aclose(self) -> None:
        """Close all pipes; a running worker then ends by itself."""
        os.close(self._lifeline)
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def run_reader(self) -> None:
        """Deliver answers until the worker ends, then wake all callers that still wait."""
        try:
            while (frame := await self._read_frame()) is not None:
                answer = self._waiting.popleft()
                answer.results = self._decoder.decode(frame)
                answer.event.set()
        except trio.BrokenResourceError:
            pass
        finally:
            self.alive = False
            if self._waiting:
                self._waiting[0].processing = True
            while self._waiting:
                self._waiting.popleft().event.set()

    async def _read_frame(self) -> bytearray | None:
        head = await read_exactly(self._stdout, LENGTH_BYTES)
        if head is None:
            return None
        return await read_exactly(self._stdout, int.from_bytes(head, "big"))


class _PendingCall:
    """A call that the worker has not answered yet."""

    __slots__ = ("event", "processing", "results")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.processing = False
        self.results: list[Examined] | None = None


async def start_worker(call_timeout_s: float) -> Worker:
    """Start a worker process.

    Raises:
        OSError: the system is short of resources for a process.
        RuntimeError: the system cannot start the thread that starts the process.
    """
    read_end, lifeline = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [*COMMAND, str(read_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[read_end],
            # A terminal's signals, which would reach it before it can ignore them, are for the
            # parent only.
            process_group=0,
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(read_end)
    for stream in (process.stdin, process.stdout):
        assert isinstance(stream, trio.lowlevel.FdStream)
        # Only for speed: an account that exceeds its pipe quota keeps the default of 64 KiB.
        with suppress(OSError):
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return Worker(process, lifeline, call_timeout_s)


async def end_worker(worker: Worker) -> None:
    """Kill the process, whatever its state, and close the pipes."""
    worker.process.kill()
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        await worker.process.wait()
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        await worker.aclose()
