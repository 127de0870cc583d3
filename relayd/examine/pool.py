"""Where examination runs: a thread of this process, or worker processes.

One core serves the event loop and the database client; each further one gets a worker process. On
a single core a thread costs less memory than a process and gains nothing by being one. More
workers than cores minus one only take turns with PostgreSQL.
"""

import fcntl
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import msgspec
import trio

from relayd.errors import Reason, Refused
from relayd.examine.child import LENGTH_BYTES
from relayd.examine.job import Examined, Job, Setup, examine
from relayd.logs import get_logger

log = get_logger("examine")

#: A call that takes longer is taken for an endless loop: its worker is killed.
CALL_TIMEOUT_S: Final = 60.0
#: A worker that keeps dying at its start is started again at most this often.
RESTART_DELAY_S: Final = 1.0
CLEANUP_TIMEOUT_S: Final = 2.0
#: While a worker works on one call, the next one waits in its pipe.
CALLS_PER_WORKER: Final = 2
_PIPE_BYTES: Final = 2**20


class Examiner(Protocol):
    """Something that examines files.

    Attributes:
        lanes: how many calls of `examine` are worth having at once.
    """

    lanes: int

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """Examines files; results for the first of them, at least one, in order."""
        ...


class ThreadExaminer:
    """Examines in one thread at a time; signature verification leaves the GIL to the others."""

    lanes = 1

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._limiter = trio.CapacityLimiter(1)

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        return await trio.to_thread.run_sync(examine, self._setup, jobs, limiter=self._limiter)


class WorkerDiedError(Exception):
    """The worker process ended, or was killed for not answering, before it answered."""


class Worker:
    """One worker process; calls are answered in order, so two may be under way at once."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin: trio.abc.SendStream = process.stdin
        self._stdout: trio.abc.ReceiveStream = process.stdout
        self._sending = trio.StrictFIFOLock()
        self._waiting: deque[_Answer] = deque()
        self._decoder = msgspec.msgpack.Decoder(list[Examined])
        self.alive = True

    async def send(self, frame: bytes) -> None:
        """Sends one frame that is not answered (the setup)."""
        await self._stdin.send_all(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)

    async def call(self, jobs: Sequence[Job]) -> list[Examined]:
        """Examines files in the worker.

        Raises:
            WorkerDiedError: it ended or did not answer within `CALL_TIMEOUT_S`.
        """
        answer = _Answer()
        try:
            async with self._sending:
                if not self.alive:
                    raise WorkerDiedError
                self._waiting.append(answer)
                await self.send(msgspec.msgpack.encode(jobs))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WorkerDiedError from error
        with trio.move_on_after(CALL_TIMEOUT_S * (1 + len(self._waiting))) as scope:
            await answer.event.wait()
        if scope.cancelled_caught:
            self.process.kill()
            await answer.event.wait()
        if answer.results is None:
            raise WorkerDiedError
        return answer.results

    async def aclose(self) -> None:
        """Closes both pipes; a living worker then ends by itself."""
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def run_reader(self) -> None:
        """Hands out answers; ends when the worker does, every caller then knows."""
        try:
            while (frame := await self._read_frame()) is not None:
                answer = self._waiting.popleft()
                answer.results = self._decoder.decode(frame)
                answer.event.set()
        except trio.BrokenResourceError:
            pass
        finally:
            self.alive = False
            while self._waiting:
                self._waiting.popleft().event.set()

    async def _read_frame(self) -> bytearray | None:
        head = await self._read_exactly(LENGTH_BYTES)
        return None if head is None else await self._read_exactly(int.from_bytes(head, "big"))

    async def _read_exactly(self, size: int) -> bytearray | None:
        data = bytearray()
        while len(data) < size:
            part = await self._stdout.receive_some(size - len(data))
            if not part:
                return None
            data += part
        return data


class _Answer:
    __slots__ = ("event", "results")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.results: list[Examined] | None = None


class WorkerPool:
    """Worker processes behind one method; a worker that dies is replaced.

    A file that kills its worker twice, the second time alone in a call, is refused: nothing that
    arrives can stop the others.
    """

    def __init__(self, setup: Setup, size: int) -> None:
        self._setup = msgspec.msgpack.encode(setup)
        self._size = size
        self.lanes = CALLS_PER_WORKER * size
        self._free_send, self._free = trio.open_memory_channel[Worker](self.lanes)
        self.workers: list[Worker] = []

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        try:
            return await self._call(jobs)
        except WorkerDiedError:
            log.warning("worker process died", files=len(jobs), file=jobs[0].name)
        return [await self._last_chance(job) for job in jobs]

    async def _last_chance(self, job: Job) -> Examined:
        try:
            return (await self._call([job]))[0]
        except WorkerDiedError:
            detail = f"twice killed the process that examined it: {job.name!r}"
            return Examined(None, Refused(Reason.WORKER_CRASH, detail))

    async def _call(self, jobs: Sequence[Job]) -> list[Examined]:
        worker = await self._free.receive()
        while not worker.alive:
            worker = await self._free.receive()
        try:
            return await worker.call(jobs)
        finally:
            if worker.alive:
                self._free_send.send_nowait(worker)

    async def run_worker(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keeps one worker process alive; started once the first one was tried."""
        told = False
        while True:
            worker = await self._try_worker()
            if not told:
                told = True
                task_status.started()
            if worker is not None:
                await self._serve(worker)
            await trio.sleep(RESTART_DELAY_S)

    async def _try_worker(self) -> Worker | None:
        try:
            return await self._open_worker()
        except OSError as error:
            log.error("worker process cannot be started", detail=error.strerror)
            return None

    async def _serve(self, worker: Worker) -> None:
        """Offers one worker to callers until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run_reader, name="worker reader")
                await worker.process.wait()
        finally:
            worker.alive = False
            self.workers.remove(worker)
            self._forget_dead()
            await _end(worker)

    async def _open_worker(self) -> Worker:
        worker = Worker(await _start_process())
        try:
            await worker.send(self._setup)
        except trio.BrokenResourceError:
            worker.alive = False
        self.workers.append(worker)
        for _ in range(CALLS_PER_WORKER):
            self._free_send.send_nowait(worker)
        return worker

    def _forget_dead(self) -> None:
        """Takes the dead out of the channel, so that it always has room for the living."""
        waiting = []
        with suppress(trio.WouldBlock):
            while True:
                waiting.append(self._free.receive_nowait())
        for worker in waiting:
            if worker.alive:
                self._free_send.send_nowait(worker)


async def _end(worker: Worker) -> None:
    """Leaves nothing of a worker behind, whatever state it is in."""
    worker.process.kill()
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        await worker.process.wait()
        await worker.aclose()


async def _start_process() -> trio.Process:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "relayd.examine.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for stream in (process.stdin, process.stdout):
        assert isinstance(stream, trio.lowlevel.FdStream)
        try:
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            # Only a matter of speed: an account over its pipe quota keeps the 64 KiB.
            break
    return process


@asynccontextmanager
async def open_examiner(setup: Setup, cores: int) -> AsyncIterator[Examiner]:
    """Opens what examines files.

    Args:
        setup: what all jobs have in common.
        cores: processor cores that relayd may use (`general.core_threads`): 1 means a thread,
            n means n - 1 worker processes.
    """
    if cores < 2:
        yield ThreadExaminer(setup)
        return
    pool = WorkerPool(setup, cores - 1)
    async with trio.open_nursery() as nursery:
        for number in range(cores - 1):
            await nursery.start(pool.run_worker, name=f"worker {number}")
        yield pool
        nursery.cancel_scope.cancel()
