"""Examination in real worker processes that are killed, hang or cannot be started."""

import errno
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.pipelines.workers import job as job_module
from relayd.pipelines.workers import pool as pool_module
from relayd.pipelines.workers import process as process_module
from relayd.pipelines.workers.job import Examined, Job, Setup
from relayd.pipelines.workers.pool import Examiner, ThreadExaminer, WorkerPool, open_examiner
from relayd.runlog.model import RunLog
from tests.support.daemon import START, eventually
from tests.support.signing import make_key_and_cert, sign_runlog

NODE = make_key_and_cert("node1")

#: A worker as relayd starts it, except that it misbehaves on files with certain names.
ODD = """
import os, sys, time
from relayd.pipelines.workers import child
from relayd.pipelines.workers import job

def examine_one(setup, it, real=job.examine_one):
    with open(os.environ["SEEN"], "a") as seen:
        print(it.name, file=seen)
    if it.name.startswith("crash"):
        os._exit(7)
    if it.name.startswith("once") and not os.path.exists(os.environ["SEEN"] + it.name):
        open(os.environ["SEEN"] + it.name, "w").close()
        os._exit(7)
    if it.name.startswith("signal"):
        os.kill(os.getpid(), int(it.name.split("-")[1]))
    while it.name.startswith("hang"):
        pass
    if it.name.startswith("chatty"):
        print("a library prints this", flush=True)
    return real(setup, it)

job.examine_one = examine_one
child.main()
"""


class Inbox:
    """A watched directory with run logs for workers to examine."""

    def __init__(self, root: Path) -> None:
        self.path = root / "incoming"
        self.path.mkdir()
        self.setup = Setup(str(self.path), 2**20, frozenset())
        self.seen_file = root / "seen"

    def job(self, name: str, reports: int = 3) -> Job:
        """Write a file of this name; return the job to examine it."""
        text = make_runlog(NODE.node_id, START, reports=reports)
        (self.path / name).write_bytes(sign_runlog(text, NODE))
        return Job(name, "", NODE.node_id, (NODE.certificate,))

    def jobs(self, *names: str) -> list[Job]:
        """Write a file of each name; return the jobs to examine them."""
        return [self.job(name) for name in names]

    def seen(self) -> list[str]:
        """Return the names of the files whose examination misbehaving workers began, in order."""
        return self.seen_file.read_text().splitlines() if self.seen_file.exists() else []


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    monkeypatch.setattr(pool_module, "RESTART_DELAY_S", 0.02)
    inbox = Inbox(tmp_path)
    monkeypatch.setenv("SEEN", str(inbox.seen_file))
    monkeypatch.setattr(process_module, "COMMAND", (sys.executable, "-c", ODD))
    return inbox


@asynccontextmanager
async def open_pool(
    inbox: Inbox, size: int = 1, call_timeout_s: float = 60.0
) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(inbox.setup, size, call_timeout_s)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                await nursery.start(pool.run_worker)
            yield pool
            nursery.cancel_scope.cancel()


async def examine_all(examiner: Examiner, jobs: list[Job]) -> list[Examined]:
    """Return all results, from as many calls as necessary."""
    results: list[Examined] = []
    while len(results) < len(jobs):
        results += await examiner.examine(jobs[len(results) :])
    return results


def outcomes(results: list[Examined]) -> list[str]:
    """Return `good`, `put off` or the reason for each file."""
    return [
        r.result.reason.value
        if isinstance(r.result, Refused)
        else {RunLog: "good", Retry: "put off"}[type(r.result)]
        for r in results
        if isinstance(r.result, Refused | RunLog | Retry)
    ]


def exists(pid: int) -> bool:
    """Return whether a process exists; a zombie does."""
    return Path(f"/proc/{pid}").exists()


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_results_come_in_the_order_of_the_jobs(inbox: Inbox) -> None:
    """A call gives one result for each file, in order, whatever kind of file it is."""
    jobs = [*inbox.jobs("a.log", "b.log"), Job("gone.log", "", "node1", ()), inbox.job("c.log", 5)]
    async with open_pool(inbox) as pool:
        results = await pool.examine(jobs)
    assert [type(r.result) for r in results] == [RunLog, RunLog, Gone, RunLog]
    assert [r.result.rows for r in results if isinstance(r.result, RunLog)] == [3, 3, 5]


async def test_concurrent_calls_get_their_own_answers(inbox: Inbox) -> None:
    """Two calls share a worker and a third one waits; each gets the results of its own files."""
    answers: dict[int, int] = {}

    async def ask(pool: WorkerPool, reports: int) -> None:
        (examined,) = await pool.examine([inbox.job(f"{reports}.log", reports)])
        assert isinstance(examined.result, RunLog)
        answers[reports] = examined.result.rows

    async with open_pool(inbox) as pool, trio.open_nursery() as nursery:
        assert pool.lanes == 2
        for reports in range(2, 12):
            nursery.start_soon(ask, pool, reports)
    assert answers == {reports: reports for reports in range(2, 12)}


async def test_more_calls_than_lanes_wait(inbox: Inbox) -> None:
    """While a worker that does not answer occupies all lanes, the next call does not begin."""
    async with open_pool(inbox) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.examine, inbox.jobs("hang.log"))
        await eventually(lambda: inbox.seen() == ["hang.log"])
        nursery.start_soon(pool.examine, inbox.jobs("b.log"))
        nursery.start_soon(pool.examine, inbox.jobs("c.log"))
        await wait_all_tasks_blocked()
        assert pool._free.statistics().tasks_waiting_receive == 1
        nursery.cancel_scope.cancel()


@pytest.mark.fault("D.5.2")
async def test_file_that_kills_its_worker_twice_is_refused(inbox: Inbox) -> None:
    """It is refused with its own identity; the others of its call and the next one are examined."""
    jobs = inbox.jobs("a.log", "crash.log", "b.log")
    before = (inbox.path / "crash.log").stat().st_ino
    async with open_pool(inbox) as pool:
        results = await examine_all(pool, jobs)
        assert outcomes(results) == ["good", Reason.WORKER_CRASH, "good"]
        assert results[1].identity is not None
        assert results[1].identity.ino == before
        assert outcomes(await pool.examine(inbox.jobs("c.log"))) == ["good"]
    assert inbox.seen().count("crash.log") == 2


@pytest.mark.fault("D.5.2")
async def test_file_that_kills_its_worker_once_is_examined(inbox: Inbox) -> None:
    """The first crash may have any cause, so only the second attempt counts."""
    async with open_pool(inbox) as pool:
        assert outcomes(await examine_all(pool, inbox.jobs("once.log"))) == ["good"]


@pytest.mark.fault("F22")
@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (signal.SIGKILL, "put off"),
        (signal.SIGUSR1, "put off"),
        (signal.SIGSTOP, "put off"),
        (signal.SIGSEGV, Reason.WORKER_CRASH),
        (signal.SIGABRT, Reason.WORKER_CRASH),
    ],
)
async def test_only_a_crash_says_something_of_the_file(
    inbox: Inbox, number: signal.Signals, outcome: str
) -> None:
    """A file whose worker is killed or stopped from outside twice is put off; the others go on."""
    jobs = inbox.jobs("a.log", f"signal-{number}-.log", "b.log")
    timeout_s = 0.5 if number is signal.SIGSTOP else 60.0
    async with open_pool(inbox, call_timeout_s=timeout_s) as pool:
        results = await examine_all(pool, jobs)
    assert outcomes(results) == ["good", outcome, "good"]
    assert results[1].identity is not None
    assert len([name for name in inbox.seen() if name.startswith("signal")]) == 2


async def test_file_that_only_waited_behind_a_crash_is_not_blamed(inbox: Inbox) -> None:
    """Calls that repeatedly share a worker with a file that kills it are examined."""
    results: dict[str, list[str]] = {}

    async def ask(pool: WorkerPool, *names: str) -> None:
        results[names[0]] = outcomes(await examine_all(pool, inbox.jobs(*names)))

    async with open_pool(inbox) as pool, trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(ask, pool, f"crash{number}.log")
            nursery.start_soon(ask, pool, f"a{number}.log", f"b{number}.log")
    assert results == {f"crash{n}.log": [Reason.WORKER_CRASH.value] for n in range(4)} | {
        f"a{n}.log": ["good", "good"] for n in range(4)
    }


async def test_one_by_one_keeps_the_bound_of_results(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash too, a call stops early if its results are large, and can be continued."""
    monkeypatch.setattr(pool_module, "RESULT_BYTES", 1)
    async with open_pool(inbox) as pool:
        jobs = inbox.jobs("once.log", "a.log", "b.log")
        assert len(await pool.examine(jobs)) == 1
        assert outcomes(await examine_all(pool, jobs)) == ["good"] * 3


async def test_worker_that_hangs_is_killed_at_its_deadline(inbox: Inbox) -> None:
    """An endless loop is ended at its deadline; at the second one the file is refused."""
    async with open_pool(inbox, call_timeout_s=0.5) as pool:
        (worker,) = pool.workers
        results = await examine_all(pool, inbox.jobs("a.log", "hang.log", "b.log"))
        assert outcomes(results) == ["good", Reason.WORKER_CRASH, "good"]
        assert not exists(worker.process.pid)


async def test_worker_killed_from_outside_is_replaced(inbox: Inbox) -> None:
    """Its successor examines the next files; its end is logged once."""
    with capture_logs() as logs:
        async with open_pool(inbox) as pool:
            await pool.examine(inbox.jobs("a.log"))
            first = pool.workers[0].process.pid
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: [w for w in pool.workers if w.process.pid != first] != [])
            assert outcomes(await pool.examine(inbox.jobs("b.log"))) == ["good"]
    assert [line for line in logs if line["event"] == "worker process ended"] == [
        {
            "component": "examine",
            "event": "worker process ended",
            "log_level": "warning",
            "status": -signal.SIGKILL,
        }
    ]


@pytest.mark.fault("F66")
async def test_worker_gets_no_signal_of_the_terminal(inbox: Inbox) -> None:
    """Ctrl-C, sent to the process group of the terminal, does not reach one that just starts."""
    async with open_pool(inbox) as pool:
        [worker] = pool.workers
        assert os.getpgid(worker.process.pid) != os.getpgid(0)


async def test_worker_outlives_the_thread_that_started_it(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trio starts processes in threads that end when idle, which does not end the worker."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
    async with open_pool(inbox) as pool:
        workers = list(pool.workers)
        await eventually(lambda: threading.active_count() == 1)
        assert outcomes(await pool.examine(inbox.jobs("a.log"))) == ["good"]
        assert pool.workers == workers


@pytest.mark.fault("R5")
@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
async def test_start_of_a_process_is_retried(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """While the system cannot start processes files wait; start and end of this are logged once."""
    real: Any = trio.lowlevel.open_process
    refusals = iter(range(3))

    async def refuse_thrice(*args: Any, **options: Any) -> Any:
        if next(refusals, None) is not None:
            raise OSError(code, os.strerror(code))
        return await real(*args, **options)

    monkeypatch.setattr(trio.lowlevel, "open_process", refuse_thrice)
    before = descriptors()
    with capture_logs() as logs:
        async with open_pool(inbox) as pool:
            assert outcomes(await pool.examine(inbox.jobs("a.log"))) == ["good"]
    assert [line["log_level"] for line in logs] == ["error", "info"]
    assert logs[0]["detail"].startswith(os.strerror(code))
    assert descriptors() == before


async def test_no_file_is_blamed_for_a_worker_that_fails_at_startup(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files wait for a program that cannot run, as during an upgrade; this is logged once."""
    monkeypatch.setattr(process_module, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with capture_logs() as logs:
        async with open_pool(inbox) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(pool.examine, inbox.jobs("a.log"))
            await eventually(lambda: sum("process ended" in line["event"] for line in logs) >= 3)
            monkeypatch.setattr(process_module, "COMMAND", (sys.executable, "-c", ODD))
    assert [line["log_level"] for line in logs if "start" in line["event"]] == ["error", "info"]
    assert inbox.seen() == ["a.log"]


async def test_output_of_libraries_does_not_mix_with_answers(inbox: Inbox) -> None:
    """What a library prints to standard output does not disturb the answers."""
    async with open_pool(inbox) as pool:
        assert outcomes(await pool.examine(inbox.jobs("chatty.log", "b.log"))) == ["good"] * 2


async def test_worker_survives_a_call_cancelled_while_it_waits(inbox: Inbox) -> None:
    """The answer to a cancelled call is not mistaken for the answer to the next one."""
    async with open_pool(inbox) as pool:
        await pool.examine(inbox.jobs("a.log"))
        (worker,) = pool.workers
        os.kill(worker.process.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.examine, [inbox.job("b.log", 4)])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        os.kill(worker.process.pid, signal.SIGCONT)
        for reports in (5, 6, 7):
            (examined,) = await pool.examine([inbox.job("c.log", reports)])
            assert isinstance(examined.result, RunLog)
            assert examined.result.rows == reports
        assert pool.workers == [worker]


async def test_worker_is_replaced_after_a_call_cancelled_while_it_is_sent(inbox: Inbox) -> None:
    """A partial call in the pipe would garble the next one, so the worker is replaced."""
    async with open_pool(inbox) as pool:
        await pool.examine(inbox.jobs("a.log"))
        (worker,) = pool.workers
        os.kill(worker.process.pid, signal.SIGSTOP)
        huge = [Job("b.log" * 2000, "", "node1", ())] * 400
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.examine, huge)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert outcomes(await pool.examine(inbox.jobs("c.log"))) == ["good"]
        assert pool.workers != [worker]


@pytest.mark.parametrize("state", ["idle", "busy", "stopped"])
async def test_close_leaves_no_process(inbox: Inbox, state: str) -> None:
    """Whatever a worker is doing when the pool closes, its process and descriptors are gone."""
    before = descriptors()
    async with open_pool(inbox, size=2) as pool, trio.open_nursery() as nursery:
        await pool.examine(inbox.jobs("a.log"))
        pids = [worker.process.pid for worker in pool.workers]
        if state == "busy":
            nursery.start_soon(pool.examine, inbox.jobs("hang.log"))
            await eventually(lambda: "hang.log" in inbox.seen())
        elif state == "stopped":
            os.kill(pids[0], signal.SIGSTOP)
        nursery.cancel_scope.cancel()
    assert [pid for pid in pids if exists(pid)] == []
    assert descriptors() == before


PARENT = """
import sys, trio
from relayd.pipelines.workers.job import Job, Setup
from relayd.pipelines.workers import pool, process

async def main():
    process.COMMAND = (sys.executable, "-c", sys.argv[1])
    async with pool.open_examiner(Setup(sys.argv[2], 2**20, frozenset()), 2) as examiner:
        print(examiner.workers[0].process.pid, flush=True)
        await examiner.examine([Job(sys.argv[3], "", "node1", ())])
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("name", ["hang.log", "idle.log"])
async def test_worker_ends_with_its_parent(inbox: Inbox, name: str) -> None:
    """A worker, even one that hangs, ends with a parent that is killed without cleaning up."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PARENT, ODD, str(inbox.path), name], stdout=-1
    )
    assert process.stdout is not None
    with trio.fail_after(60):
        async with process.stdout:
            pid = int(await process.stdout.receive_some())
            await eventually(lambda: inbox.seen() == [name])
            process.kill()
            await process.wait()
            await eventually(lambda: not is_running(pid), lambda: f"{pid} is still running")


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie that its new parent has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_one_core_examines_in_a_thread(inbox: Inbox) -> None:
    """With one core there is one lane, and no process."""
    async with open_examiner(inbox.setup, 1) as examiner:
        assert isinstance(examiner, ThreadExaminer)
        assert examiner.lanes == 1
        assert outcomes(await examiner.examine(inbox.jobs("a.log", "b.log"))) == ["good"] * 2


async def test_only_the_file_that_raises_in_the_thread_is_refused(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without processes too, a file that makes relayd's own code raise stops no other file."""
    real = job_module.examine_one

    def broken(setup: Setup, job: Job) -> Examined:
        if job.name.startswith("crash"):
            raise ZeroDivisionError
        return real(setup, job)

    monkeypatch.setattr(job_module, "examine_one", broken)
    jobs = inbox.jobs("a.log", "crash.log", "b.log")
    results: list[Examined] = []
    async with open_examiner(inbox.setup, 1) as examiner:
        with capture_logs() as logs:
            while len(results) < len(jobs):
                results += await examiner.examine(jobs[len(results) :])
    assert [type(result.result) for result in results] == [RunLog, Refused, RunLog]
    assert isinstance(results[1].result, Refused)
    assert results[1].result.reason is Reason.WORKER_CRASH
    assert results[1].identity is not None
    assert [line["event"] for line in logs] == ["examination failed with an exception"]


async def test_further_cores_get_a_worker_each(inbox: Inbox) -> None:
    """One core is reserved for the event loop; each worker takes two calls."""
    async with open_examiner(inbox.setup, 3) as examiner:
        assert isinstance(examiner, WorkerPool)
        assert len(examiner.workers) == 2
        assert examiner.lanes == 4
