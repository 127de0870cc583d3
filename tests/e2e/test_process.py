"""relayd as a process: signals, bugs, workers that die, a stuck log, takeovers."""

import fcntl
import os
import random
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from relayd.commands.demo.postgres.opening import Postgres
from tests.support.broken import TASKS
from tests.support.daemon import Daemon, Site, eventually, make_site, open_daemon
from tests.support.ledger import SEED, Ledger, fleet
from tests.support.postgres import Database
from tests.support.signing import make_key_and_cert
from tests.support.strace import children, inject, open_strace

API: Final = "/rudder/relay-api/1"


#: All uploads are renamed into place.
pytestmark = pytest.mark.site(extra={"processing.reporting": 'settle_time = "0s"'})


@asynccontextmanager
async def uploads(ledger: Ledger) -> AsyncIterator[None]:
    """Run logs of all kinds arrive as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep_sending)
        yield
        nursery.cancel_scope.cancel()


async def balance(ledger: Ledger, database: Database) -> None:
    """Let a whole relayd finish the work, then check the ledger."""
    async with open_daemon(ledger.site) as daemon:
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


async def code_of(daemon: Daemon) -> int:
    """Wait for its end and for its last line; return the exit code."""
    with trio.fail_after(60):
        code = await daemon.process.wait()
        await daemon.ended.wait()
    return code


# --- signals


@pytest.mark.fault("L1")
@pytest.mark.parametrize("cores", [1, 2])
async def test_stops_under_load(site: Site, ledger: Ledger, database: Database, cores: int) -> None:
    """SIGTERM in the middle of work ends relayd with 0; nothing is lost or doubled."""
    site.extra["general"] = f"core_threads = {cores}"
    site.write()
    moments = random.Random(SEED)
    async with uploads(ledger):
        for _ in range(3):
            async with open_daemon(site) as daemon:
                await trio.sleep(moments.uniform(0.0, 0.5))
                assert await daemon.stop() == 0
                await daemon.ended.wait()
                assert daemon.lines_of("main: stopped")
                # It had time enough: nothing was cut off.
                assert not daemon.lines_of("files in flight")
    await balance(ledger, database)


@pytest.mark.torture
@pytest.mark.fault("L1")
async def test_stops_under_load_100_times(site: Site, ledger: Ledger, database: Database) -> None:
    """The same a hundred times."""
    moments = random.Random(SEED)
    async with uploads(ledger):
        for _ in range(100):
            async with open_daemon(site) as daemon:
                await trio.sleep(moments.uniform(0.0, 0.5))
                assert await daemon.stop() == 0
    await balance(ledger, database)


@pytest.mark.fault("L1")
async def test_stops_although_the_database_hangs(
    tmp_path: Path, private_postgres: Postgres
) -> None:
    """A database that does not answer does not hold up the end; its files stay in the spool."""
    site = make_site(tmp_path, private_postgres.rudder, fleet())
    async with open_daemon(site) as daemon:
        private_postgres.suspend()
        name = site.send("node0")
        await eventually(lambda: site.waiting() == [name])
        await metric_reaches(daemon, "rudder_relayd_in_flight", 1)
        assert await daemon.stop() == 0
        private_postgres.resume()
    assert site.waiting() == [name]
    async with open_daemon(site) as daemon:
        await daemon.settled()
        assert await daemon.stop() == 0


async def metric_reaches(daemon: Daemon, name: str, value: float) -> None:
    """Wait until a metric is at least this large."""
    with trio.fail_after(60):
        while await daemon.metric(name) < value:
            await trio.sleep(0.02)


@pytest.mark.fault("L2")
@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]]
)
async def test_ends_on_interrupt_and_once_only(
    site: Site, ledger: Ledger, database: Database, numbers: list[signal.Signals]
) -> None:
    """SIGINT stops as SIGTERM does; another signal to stop changes nothing."""
    async with uploads(ledger), open_daemon(site) as daemon:
        for number in numbers:
            daemon.process.send_signal(number)
        assert await code_of(daemon) == 0
        assert len(daemon.lines_of("main: stopping")) == 1
        assert daemon.lines_of("main: stopped")
    await balance(ledger, database)


@pytest.mark.fault("L2")
async def test_goes_on_after_signals_that_mean_no_end(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """SIGHUP reloads, SIGPIPE is ignored, and neither disturbs the work."""
    async with uploads(ledger), open_daemon(site) as daemon:
        for _ in range(3):
            seen = len(daemon.lines)
            daemon.process.send_signal(signal.SIGPIPE)
            daemon.process.send_signal(signal.SIGHUP)
            await daemon.saw("main: reloaded", since=seen)
        assert await daemon.stop() == 0
    await balance(ledger, database)


@pytest.mark.fault("L2")
async def test_ends_on_a_signal_that_it_does_not_know(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """SIGUSR1 ends the process as the system has it; a restart loses nothing."""
    async with uploads(ledger), open_daemon(site) as daemon:
        assert await daemon.stop(signal.SIGUSR1) == -signal.SIGUSR1
    await balance(ledger, database)


@pytest.mark.fault("L4")
@pytest.mark.parametrize("seconds", [1.5, pytest.param(65, marks=pytest.mark.torture)])
async def test_continues_after_a_stop(
    site: Site, ledger: Ledger, database: Database, seconds: float
) -> None:
    """Stopped in the middle of work and continued, relayd catches up and does nothing twice."""
    async with open_daemon(site) as daemon:
        async with uploads(ledger):
            for _ in range(2):
                await metric_reaches(daemon, "rudder_relayd_in_flight", 1)
                daemon.process.send_signal(signal.SIGSTOP)
                sent = len(ledger.good)
                await trio.sleep(seconds)
                assert len(ledger.good) > sent
                daemon.process.send_signal(signal.SIGCONT)
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


# --- bugs and lost processes


@pytest.mark.fault("L3")
@pytest.mark.history(61)
@pytest.mark.parametrize("tasks", [list(TASKS)[start::4] for start in range(4)])
async def test_bug_in_a_task_ends_the_process(
    site: Site, ledger: Ledger, database: Database, tasks: list[str]
) -> None:
    """A bug in any task is exit code 1 with its traceback; restarts lose nothing."""
    async with uploads(ledger):
        for task in tasks:
            go = site.root / f"go {task}"
            program = ("tests.support.broken", task, str(go))
            async with open_daemon(site, program=program) as daemon:
                go.touch()
                assert await code_of(daemon) == 1
                text = "\n".join(daemon.lines)
                assert "ERROR main: crashed" in text
                assert f"| BugError: in {task}\n" in text + "\n"
    await balance(ledger, database)


async def replaced(daemon: Daemon, worker: int) -> None:
    """Wait until another worker process has taken the place of this one."""
    await eventually(lambda: children(daemon.process.pid) not in ([], [worker]))


@pytest.mark.fault("L6")
async def test_worker_killed_while_idle_is_replaced(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """A worker that nobody has asked anything is replaced; no file notices."""
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        for _ in range(2):
            (worker,) = children(daemon.process.pid)
            os.kill(worker, signal.SIGKILL)
            await replaced(daemon, worker)
            ledger.send()
            await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("L6")
async def test_worker_without_memory_puts_files_off(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """What a worker has no memory for waits, small files pass, and nothing is blamed."""
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        (worker,) = children(daemon.process.pid)
        before = limit_memory(worker)
        large = ledger.send(reports=50_000)
        await daemon.saw("file stays; will be retried.*not enough memory")
        ledger.send()
        await eventually(lambda: site.waiting() == [large])
        resource.prlimit(worker, resource.RLIMIT_AS, before)
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


def limit_memory(pid: int) -> tuple[int, int]:
    """Give a process no more address space than it has; return the former limit."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size, before[1]))
    return before


@pytest.mark.fault("L6")
async def test_daemon_without_memory_loses_nothing(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """A daemon that gets no memory ends with a failure, or goes on once there is some again."""
    async with open_daemon(site) as daemon:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.keep_sending)
            await metric_reaches(daemon, "rudder_relayd_in_flight", 1)
            before = limit_memory(daemon.process.pid)
            for _ in range(20):
                ledger.send(reports=5000)
            # Which of both depends on what is left over in its heap.
            with trio.move_on_after(3):
                await daemon.process.wait()
            nursery.cancel_scope.cancel()
        if daemon.process.returncode is None:
            resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, before)
            await daemon.settled()
            assert await daemon.stop() == 0
        assert daemon.process.returncode not in (2, 3)
    await balance(ledger, database)


@pytest.mark.fault("L6", "D.5.2")
async def test_file_that_kills_its_worker_is_refused_alone(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """Examined twice, once alone, then refused with that reason; its neighbours are stored."""
    poison = site.name("node0", 1000)
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        family = [daemon.process.pid, *children(daemon.process.pid)]
        path = site.incoming / poison
        async with open_strace(family, "-f", "-P", path, *inject("openat", "signal=SEGV")):
            ledger.bad.add(poison)
            site.upload(poison, site.run_log("node0", 1000))
            for _ in range(5):
                ledger.send()
            await daemon.settled()
        assert site.refused() == {poison: "worker_crash"}
        assert await daemon.metric("rudder_relayd_refused_total", reason="worker_crash") == 1
        assert await daemon.stop() == 0
    await ledger.balance(database)


# --- the log


@pytest.mark.fault("L8")
async def test_goes_on_when_nobody_reads_its_log(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """With stdout a full pipe run logs are stored and the API answers; lost lines are counted."""
    long = "n" * 190
    site.nodes[long] = make_key_and_cert(long)
    site.write()
    pipe = site.root / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    into_pipe = ("sh", "-c", f'exec "$@" > {pipe} 2>&1', "sh")
    async with open_daemon(site, wrapper=into_pipe, ready=None) as daemon:
        await daemon.answers()
        with trio.fail_after(60):
            while not await daemon.metric("rudder_relayd_log_dropped_total"):
                # Each of these gives a long line, because it is gone by then.
                for number in range(500):
                    path = site.incoming / site.name(long, number)
                    path.touch()
                    path.unlink()
        ledger.send()
        ledger.send_forged()
        await daemon.settled()
        assert (await daemon.get(f"{API}/system/info"))[0] == 200
        assert await daemon.stop() == 0
    os.close(reader)
    await ledger.balance(database)


# --- taking over from another implementation


@pytest.mark.fault("L7")
async def test_takes_over_a_live_spool_and_leaves_one(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """What another relayd left is worked off, and what this one leaves is as it always was."""
    inserted = ledger.send()
    async with open_daemon(site) as daemon:
        await daemon.settled()
        await daemon.stop()
    # Committed by the other one, which ended before it removed the file.
    (sent,) = ledger.good.values()
    site.upload(inserted, sent.data)
    for _ in range(20):
        ledger.send_any()
    for path in site.incoming.iterdir():
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    upload = site.incoming / ".davfs.tmpAb1234"
    upload.write_bytes(b"half a run lo")
    # Refused by the other one, which keeps no reasons.
    old = site.failed / site.name("node0", 2000)
    old.write_bytes(b"what it was")
    async with open_daemon(site) as daemon:
        await eventually(lambda: site.waiting() == [upload.name])
        assert await daemon.stop() == 0
    assert upload.read_bytes() == b"half a run lo"
    assert old.read_bytes() == b"what it was"
    old.unlink()
    upload.rename(site.incoming / site.name("node0", 3000))
    ledger.bad.add(site.name("node0", 3000))
    names = [ledger.send_any() for _ in range(20)]
    async with open_daemon(site) as daemon:
        assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    # No names of its own anywhere: the other one knows them all.
    assert {path.name for path in site.incoming.parent.iterdir()} == {"failed", "incoming"}
    assert {*site.waiting()} <= {*names, site.name("node0", 3000)}
    # A hidden name is the reason that it was writing when it was killed.
    visible = {path.name for path in site.failed.iterdir() if not path.name.startswith(".")}
    assert {name.removesuffix(".reason") for name in visible} <= ledger.bad
    await balance(ledger, database)
