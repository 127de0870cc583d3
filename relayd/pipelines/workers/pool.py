"""Where examination runs: a thread of this process, or worker processes.

One core serves the event loop and the database client; each further one gets a worker process. On
a single core a thread costs less memory than a process and gains nothing by being one. More
workers than cores minus one only take turns with PostgreSQL.
"""

import fcntl
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec
import trio

from relayd.errors import Reason, Refused
from relayd.pipelines.workers.child import LENGTH_BYTES
from relayd.pipelines.workers.job import RESULT_BYTES, Examined, Job, Setup, examine
from relayd.runlog.filename import queue_id
from relayd.runlog.model import RunLog
from relayd.spool.identity import Identity, identity_at
from relayd.system.printable import printable
from relayd.system.streams import read_exactly
from relayd.system.threads import in_thread, is_shortage
from relayd.telemetry.logs import get_logger

log = get_logger("examine")

#: A call that takes longer is taken for an endless loop: its worker is killed.
CALL_TIMEOUT_S: Final = 60.0
#: A worker that keeps dying at its start is started again at most this often.
RESTART_DELAY_S: Final = 1.0
CLEANUP_TIMEOUT_S: Final = 2.0
#: While a worker works on one call, the next one waits in its pipe.
CALLS_PER_WORKER: Final = 2
COMMAND: Final = (sys.executable, "-m", "relayd.pipelines.workers.child")
_PIPE_BYTES: Final = 2**20


class Examiner(Protocol):
    """Something that examines files.

    Attributes:
        lanes: how many calls of `examine` are worth having at once.
    """

    lanes: int

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """Examine files; results for the first of them, at least one, in order."""
        ...


class ThreadExaminer:
    """Examines in one thread at a time; signature verification leaves the GIL to the others."""

    lanes = 1

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._limiter = trio.CapacityLimiter(1)

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        return await in_thread(self._examine, jobs, limiter=self._limiter)

    def _examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As in a worker: what breaks on a file is told and refused, the others go on."""
        try:
            return examine(self._setup, jobs)
        except Exception:
            if len(jobs) > 1:
                return self._examine(jobs[: len(jobs) // 2])
            log.exception("examination broke", node=jobs[0].node_id, **_named(jobs[0]))
        name = jobs[0].name
        refused = Refused(Reason.WORKER_CRASH, f"its examination broke: {printable(name, 200)}")
        return [Examined(_identity_now(Path(self._setup.directory) / name), refused)]


class WorkerDiedError(Exception):
    """The worker process ended, or was killed for not answering, before it answered.

    Attributes:
        at_work: on this very call, which may be why; others only waited behind it.
    """

    def __init__(self, *, at_work: bool) -> None:
        super().__init__()
        self.at_work = at_work


class Worker:
    """One worker process; calls are answered in order, so two may be under way at once.

    Args:
        process: of `relayd.pipelines.workers.child`, with pipes.
        lifeline: descriptor whose end ends the process; closed by `aclose`.
        call_timeout_s: seconds for one call and for each one before it.
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
        self._waiting: deque[_Answer] = deque()
        self._decoder = msgspec.msgpack.Decoder(list[Examined])
        self.alive = True

    async def call(self, frame: bytes) -> list[Examined]:
        """Let the worker answer one frame: jobs, or at first the setup, both as MessagePack.

        Raises:
            WorkerDiedError: it ended or did not answer in time.
        """
        answer = _Answer()
        await self._send(frame, answer)
        with trio.move_on_after(self._call_timeout_s * (1 + len(self._waiting))) as scope:
            await answer.event.wait()
        if scope.cancelled_caught:
            self.process.kill()
            await answer.event.wait()
        if answer.results is None:
            raise WorkerDiedError(at_work=answer.at_work)
        return answer.results

    async def _send(self, frame: bytes, answer: "_Answer") -> None:
        async with self._sending:
            if not self.alive:
                raise WorkerDiedError(at_work=False)
            self._waiting.append(answer)
            try:
                await self._stdin.send_all(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
            except trio.BrokenResourceError as error:
                raise WorkerDiedError(at_work=False) from error
            except trio.Cancelled:
                # Part of a frame may be in the pipe: what came after it would not be understood.
                self.alive = False
                self.process.kill()
                raise

    async def aclose(self) -> None:
        """Close all pipes; a living worker then ends by itself."""
        os.close(self._lifeline)
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def run_reader(self) -> None:
        """Hand out answers; ends when the worker does, every caller then knows."""
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
                self._waiting[0].at_work = True
            while self._waiting:
                self._waiting.popleft().event.set()

    async def _read_frame(self) -> bytearray | None:
        head = await read_exactly(self._stdout, LENGTH_BYTES)
        if head is None:
            return None
        return await read_exactly(self._stdout, int.from_bytes(head, "big"))


class _Answer:
    __slots__ = ("at_work", "event", "results")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.at_work = False
        self.results: list[Examined] | None = None


class WorkerPool:
    """Worker processes behind one method; a worker that dies is replaced.

    A file that kills its worker twice, the second time alone in a call, is refused: nothing that
    arrives can stop the others. A worker takes no file before it has answered its setup, so one
    that cannot even start blames none.

    Args:
        setup: what all jobs have in common.
        size: number of worker processes.
        call_timeout_s: seconds after which a call is taken for an endless loop.
    """

    def __init__(self, setup: Setup, size: int, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._directory = Path(setup.directory)
        self._setup = msgspec.msgpack.encode(setup)
        self._call_timeout_s = call_timeout_s
        self.lanes = CALLS_PER_WORKER * size
        self._free_send, self._free = trio.open_memory_channel[Worker](self.lanes)
        self.workers: list[Worker] = []
        self._failing = False

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        results = await self._attempt(jobs)
        if results is not None:
            return results
        log.warning("examined one by one after a crash", files=len(jobs), **_named(jobs[0]))
        results = []
        size = 0
        for job in jobs:
            results.append(await self._last_chance(job))
            if isinstance(results[-1].result, RunLog):
                size += len(results[-1].result.copy)
            if size >= RESULT_BYTES:
                break
        return results

    async def _last_chance(self, job: Job) -> Examined:
        # What is refused is what was there before, not a newer file of the same name.
        known = await in_thread(_identity_now, self._directory / job.name)
        results = await self._attempt([job])
        if results is not None:
            return results[0]
        detail = f"twice ended the process that examined it: {printable(job.name, 200)}"
        return Examined(known, Refused(Reason.WORKER_CRASH, detail))

    async def _attempt(self, jobs: Sequence[Job]) -> list[Examined] | None:
        """None when a worker ended at work on these; what only waited goes to another one."""
        frame = msgspec.msgpack.encode(jobs)
        while True:
            try:
                return await self._call(frame)
            except WorkerDiedError as death:
                if death.at_work:
                    return None

    async def _call(self, frame: bytes) -> list[Examined]:
        worker = await self._free.receive()
        while not worker.alive:
            worker = await self._free.receive()
        try:
            return await worker.call(frame)
        finally:
            if worker.alive:
                self._free_send.send_nowait(worker)

    async def run_worker(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep one worker process alive; started once the first was tried, ends if cancelled."""
        worker = await self._start_worker()
        task_status.started()
        while True:
            if worker is not None:
                await self._serve(worker)
            await trio.sleep(RESTART_DELAY_S)
            worker = await self._start_worker()

    async def _start_worker(self) -> Worker | None:
        try:
            return await _start_worker(self._call_timeout_s)
        except OSError as error:
            self._note_failing(error.strerror)
        except RuntimeError as error:
            if not is_shortage(error):  # of threads: processes are started in one
                raise
            self._note_failing(str(error))
        return None

    async def _serve(self, worker: Worker) -> None:
        """Offer one worker to callers, once it is set up, until it ends."""
        self.workers.append(worker)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run_reader, name="worker reader")
                nursery.start_soon(self._offer, worker, name="worker setup")
                await worker.process.wait()
        finally:
            worker.alive = False
            self.workers.remove(worker)
            self._forget_dead()
            await _end(worker)
        log.warning("worker process ended", status=worker.process.returncode)

    async def _offer(self, worker: Worker) -> None:
        try:
            await worker.call(self._setup)
        except WorkerDiedError:
            self._note_failing("it ended at its start")
            return
        if self._failing:
            log.info("worker process started again")
            self._failing = False
        for _ in range(CALLS_PER_WORKER):
            self._free_send.send_nowait(worker)

    def _note_failing(self, detail: str | None) -> None:
        if not self._failing:
            log.error("worker process cannot be started, trying again", detail=detail)
        self._failing = True

    def _forget_dead(self) -> None:
        """Take the dead out of the channel, so that it always has room for the living."""
        waiting = []
        with suppress(trio.WouldBlock):
            while True:
                waiting.append(self._free.receive_nowait())
        for worker in waiting:
            if worker.alive:
                self._free_send.send_nowait(worker)


def _identity_now(path: Path) -> Identity | None:
    try:
        return identity_at(path)
    except OSError:
        return None


async def _end(worker: Worker) -> None:
    """Leave nothing of a worker behind, whatever state it is in."""
    worker.process.kill()
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        await worker.process.wait()
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        await worker.aclose()


async def _start_worker(call_timeout_s: float) -> Worker:
    """Start one worker process; raises OSError when there is none to be had."""
    read_end, lifeline = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [*COMMAND, str(read_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[read_end],
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(read_end)
    for stream in (process.stdin, process.stdout):
        assert isinstance(stream, trio.lowlevel.FdStream)
        # Only a matter of speed: an account over its pipe quota keeps the 64 KiB.
        with suppress(OSError):
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return Worker(process, lifeline, call_timeout_s)


@asynccontextmanager
async def open_examiner(setup: Setup, cores: int) -> AsyncIterator[Examiner]:
    """Open what examines files; leaves no process behind when it is closed.

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


def _named(job: Job) -> dict[str, str]:
    """Return which file a log line is about."""
    return {"file": job.name, "queue_id": queue_id(job.name)}
