"""Execution of examinations: in a thread of this process, or in worker processes.

One core serves the event loop and the database client; every other one gets a worker process. With
a single core, a worker process would not be faster than a thread and takes more memory. More
workers than cores minus one would only compete with PostgreSQL for the cores.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
import trio

from relayd.errors import Reason, Refused, Retry
from relayd.pipelines.workers.job import RESULT_BYTES, Examined, Job, Setup, examine
from relayd.pipelines.workers.process import Worker, WorkerEndedError, end_worker, start_worker
from relayd.runlog.filename import queue_id
from relayd.runlog.model import RunLog
from relayd.spool.identity import Identity, identity_at
from relayd.system.printable import printable
from relayd.system.shortage import shortage_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger

log = get_logger("examine")

#: A call that takes longer is considered an endless loop: its worker is killed.
CALL_TIMEOUT_S: Final = 60.0
#: Minimum delay between two starts of a worker that keeps failing at startup.
RESTART_DELAY_S: Final = 1.0
#: While a worker processes one call, the next one waits in its pipe.
CALLS_PER_WORKER: Final = 2


class Examiner(Protocol):
    """An executor of examinations.

    Attributes:
        lanes: number of concurrent calls of `examine` that it can make use of.
    """

    lanes: int

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """Examine files; return the results of the first of them, at least one, in order."""
        ...


class ThreadExaminer:
    """Examines in one thread at a time; the verification of signatures releases the GIL."""

    lanes = 1

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._limiter = trio.CapacityLimiter(1)

    async def examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """As `Examiner.examine`."""
        return await in_thread(self._examine, jobs, limiter=self._limiter)

    def _examine(self, jobs: Sequence[Job]) -> list[Examined]:
        """Examine files; log and refuse a file whose examination raises, as the pool would."""
        try:
            return examine(self._setup, jobs)
        except Exception:
            if len(jobs) > 1:
                return self._examine(jobs[: len(jobs) // 2])
            log.exception(
                "examination failed with an exception", node=jobs[0].node_id, **_log_fields(jobs[0])
            )
        name = jobs[0].name
        detail = f"examining it failed with an exception: {printable(name, 200)}"
        refused = Refused(Reason.WORKER_CRASH, detail)
        return [Examined(_current_identity(Path(self._setup.directory) / name), refused)]


class WorkerPool:
    """Executes examinations in worker processes, and replaces workers that end.

    A file that ends its worker twice, the second time as the only one in a call, is refused, so
    that no file can block the others. A worker gets no files before it has answered its setup, so
    no file is blamed for a worker that fails at startup. A worker that was ended from outside says
    nothing about its file either, which is then examined alone, and put off if that ends likewise.

    Args:
        setup: settings of all jobs.
        size: number of worker processes.
        call_timeout_s: seconds after which a call is considered an endless loop.
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
        attempt = await self._attempt(jobs)
        if not isinstance(attempt, str):
            return attempt
        log.warning(
            "worker process ended early; examining its files one by one",
            cause=attempt,
            files=len(jobs),
            **_log_fields(jobs[0]),
        )
        results: list[Examined] = []
        size = 0
        for job in jobs:
            results.append(await self._examine_alone(job))
            if isinstance(results[-1].result, RunLog):
                size += len(results[-1].result.copy)
            if size >= RESULT_BYTES:
                break
        return results

    async def _examine_alone(self, job: Job) -> Examined:
        """Examine one file in a call of its own; refuse it if its worker ends again."""
        # Taken before, so that a newer file of the same name is not refused.
        known = await in_thread(_current_identity, self._directory / job.name)
        attempt = await self._attempt([job])
        if attempt == "killed":
            detail = "the worker process was killed from outside (by the system, short of memory?)"
            return Examined(known, Retry(detail))
        if attempt != "crashed":
            return attempt[0]
        detail = f"the worker process ended twice while examining it: {printable(job.name, 200)}"
        return Examined(known, Refused(Reason.WORKER_CRASH, detail))

    async def _attempt(self, jobs: Sequence[Job]) -> list[Examined] | Literal["crashed", "killed"]:
        """Return the results, or how a worker ended while processing these jobs.

        Jobs that were only waiting when their worker ended are sent to another one.
        """
        frame = msgspec.msgpack.encode(jobs)
        while True:
            try:
                return await self._call(frame)
            except WorkerEndedError as error:
                if error.processing:
                    return "killed" if error.killed else "crashed"

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
        """Keep one worker process running until cancelled.

        `task_status.started` is called after the first attempt to start it.
        """
        worker = await self._start_worker()
        task_status.started()
        while True:
            if worker is not None:
                await self._serve(worker)
            await trio.sleep(RESTART_DELAY_S)
            worker = await self._start_worker()

    async def _start_worker(self) -> Worker | None:
        try:
            return await start_worker(self._call_timeout_s)
        except (OSError, RuntimeError) as error:
            # Of threads, in which Trio starts processes.
            shortage = shortage_of(error)
            if shortage is None and isinstance(error, RuntimeError):
                raise
            self._note_failing(shortage or str(error))
        return None

    async def _serve(self, worker: Worker) -> None:
        """Set up one worker, then offer it to callers until it ends."""
        self.workers.append(worker)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run_reader, name="worker reader")
                nursery.start_soon(self._offer, worker, name="worker setup")
                await worker.process.wait()
        finally:
            worker.alive = False
            self.workers.remove(worker)
            self._remove_ended()
            await end_worker(worker)
        log.warning("worker process ended", status=worker.process.returncode)

    async def _offer(self, worker: Worker) -> None:
        try:
            await worker.call(self._setup)
        except WorkerEndedError:
            self._note_failing("it ended during startup")
            return
        if self._failing:
            log.info("worker process restarted")
            self._failing = False
        for _ in range(CALLS_PER_WORKER):
            self._free_send.send_nowait(worker)

    def _note_failing(self, detail: str | None) -> None:
        if not self._failing:
            log.error("cannot start worker process; retrying", detail=detail)
        self._failing = True

    def _remove_ended(self) -> None:
        """Remove ended workers from the channel, so that it never fills up."""
        waiting = []
        with suppress(trio.WouldBlock):
            while True:
                waiting.append(self._free.receive_nowait())
        for worker in waiting:
            if worker.alive:
                self._free_send.send_nowait(worker)


def _current_identity(path: Path) -> Identity | None:
    try:
        return identity_at(path)
    except OSError:
        return None


@asynccontextmanager
async def open_examiner(setup: Setup, cores: int) -> AsyncIterator[Examiner]:
    """Open an examiner; all its processes have ended when it is closed.

    Args:
        setup: settings of all jobs.
        cores: number of processor cores to use (`general.core_threads`): 1 means a thread, n means
            n - 1 worker processes.
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


def _log_fields(job: Job) -> dict[str, str]:
    """Return the log fields that identify the file of a job."""
    return {"file": job.name, "queue_id": queue_id(job.name)}
