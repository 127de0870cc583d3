"""relayd with little of everything: descriptors, threads, processor, disk."""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trio

from tests.support.daemon import PATIENCE_S, Daemon, Site, eventually, open_daemon
from tests.support.ledger import Ledger
from tests.support.postgres import Database
from tests.support.strace import children, inject, open_record, open_strace, threads

INFO: Final = "/rudder/relay-api/1/system/info"


@pytest.fixture
def site_directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a filesystem: thousands of fsync(2) prove nothing here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as it:
        yield Path(it)


def set_cores(site: Site, cores: int) -> None:
    """With one, a thread examines files, with two a process does."""
    site.extra["general"] = f"core_threads = {cores}"
    site.write()


# --- R2


@pytest.mark.fault("R2")
async def test_full_disk_does_not_stop_the_work(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """With no byte left in the spool, refused files are moved and good ones are stored."""
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system allows no mount namespaces")
    mount = f'mount -t tmpfs -o size=512k none {site.incoming.parent} && exec "$@"'
    async with open_daemon(site, wrapper=("unshare", "-rm", "sh", "-c", mount, "sh")) as daemon:
        inside = replace(site, root=Path(f"/proc/{daemon.process.pid}/root{site.root}"))
        ledger.site = daemon.site = inside
        daemon.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            ledger.send()
            ledger.send_forged()
        filler = inside.root / "reports" / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**20))
        daemon.process.send_signal(signal.SIGCONT)
        await daemon.settled()
        assert {path.name for path in inside.failed.glob("*.log")} == ledger.bad
        await ledger.check_rows(database)
        assert await daemon.stop() == 0


# --- R3


@pytest.mark.fault("R3", "F24")
@pytest.mark.parametrize("cores", [1, 2])
async def test_few_descriptors_under_load(
    site: Site, ledger: Ledger, database: Database, cores: int
) -> None:
    """With all descriptors taken by clients no file is blamed; it recovers when they leave."""
    set_cores(site, cores)
    async with open_daemon(site, wrapper=("prlimit", "--nofile=64:64")) as daemon:
        ledger.send()
        await daemon.settled()
        fds = Path(f"/proc/{daemon.process.pid}/fd")
        with ExitStack() as clients:
            for _ in range(80):
                client = socket.create_connection(("127.0.0.1", site.port))
                clients.enter_context(client)
                client.send(f"GET {INFO} HTTP/1.1\r\n".encode())
            await eventually(lambda: len(list(fds.iterdir())) >= 64)
            for _ in range(50):
                ledger.send()
            if cores == 1:
                await daemon.saw("file stays; will be retried.*Too many open files")
            await daemon.saw("cannot accept connections; clients wait.*LimitNOFILE")
        await daemon.answers()
        ledger.send_forged()
        await daemon.settled()
        assert await daemon.stop() == 0
        assert daemon.lines_of("Traceback") == daemon.lines_of("serve_listeners") == []
    await ledger.balance(database)


# --- R5


#: Calls that start a thread or a process.
CLONES: Final = "clone,clone3,fork,vfork"


@pytest.mark.fault("F45")
@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        (
            f"{CLONES}:error=EAGAIN",
            "cannot start a thread (RLIMIT_NPROC, LimitNPROC= or TasksMax=)",
        ),
        ("flock:error=ENOMEM", "Cannot allocate memory (memory, MemoryMax=)"),
    ],
)
async def test_start_without_a_resource_names_the_limit(site: Site, rule: str, limit: str) -> None:
    """What prevents the start for lack of something is one line, with the limit to raise."""
    call, _, what = rule.partition(":")
    wrapper = ("strace", "-f", "-qq", *inject(call, what))
    async with open_daemon(site, wrapper=wrapper, ready=None) as daemon:
        with trio.fail_after(PATIENCE_S):
            assert await daemon.process.wait() == os.EX_TEMPFAIL
            await daemon.ended.wait()
    assert daemon.lines[-1].startswith("error: ")
    assert daemon.lines[-1].endswith(limit)
    assert daemon.lines_of("Traceback") == []


@pytest.mark.fault("F45")
async def test_exhausted_inotify_names_the_limit(site: Site) -> None:
    """Where inotify is exhausted relayd polls, and says which limit to raise."""
    wrapper = ("strace", "-f", "-qq", *inject("inotify_add_watch", "error=ENOSPC"))
    async with open_daemon(site, wrapper=wrapper) as daemon:
        await daemon.saw(r"inotify is unavailable; polling.*sysctl fs.inotify.max_user_watches")


@pytest.mark.fault("R5")
async def test_no_threads_for_a_while(site: Site, ledger: Ledger, database: Database) -> None:
    """Where no thread can be started for a while, relayd waits; no file is blamed."""
    set_cores(site, 1)
    # The thread that writes the log and one more exist; the next few are refused.
    few = ("strace", "-f", "-qq", *inject(CLONES, "error=EAGAIN:when=3..8"))
    async with open_daemon(site, wrapper=few, ready=None) as daemon:
        for _ in range(20):
            ledger.send()
            ledger.send_forged()
        await daemon.saw("cannot start a thread; retrying")
        await daemon.settled()
        (traced,) = children(daemon.process.pid)
        os.kill(traced, signal.SIGTERM)
        assert await daemon.process.wait() == 0
    await ledger.balance(database)


@pytest.mark.fault("R5")
async def test_no_processes_for_a_while(site: Site, ledger: Ledger, database: Database) -> None:
    """Where no worker can be started for a while, relayd waits; no file is blamed."""
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        family = [daemon.process.pid]
        async with open_strace(family, "-f", *inject(CLONES, "error=EAGAIN")):
            (worker,) = children(daemon.process.pid)
            os.kill(worker, signal.SIGKILL)
            for _ in range(20):
                ledger.send()
            await daemon.saw("cannot start worker process; retrying")
            assert (await daemon.get(INFO))[0] == 200
        ledger.send_forged()
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


# --- R6


@pytest.mark.fault("R6")
async def test_very_little_cpu(site: Site, ledger: Ledger, database: Database) -> None:
    """With a twentieth of a processor it is slow, but no file is blamed."""
    async with open_daemon(site) as daemon, trio.open_nursery() as nursery:
        family = [daemon.process.pid, *children(daemon.process.pid)]
        nursery.start_soon(run_throttle, family)
        for _ in range(60):
            ledger.send()
            ledger.send_any()
            await trio.sleep(0.01)
        await daemon.settled()
        nursery.cancel_scope.cancel()
        send_all(family, signal.SIGCONT)
        assert await daemon.stop() == 0
    await ledger.balance(database)


async def run_throttle(family: list[int]) -> None:
    """Lets processes run for a twentieth of the time."""
    while True:
        send_all(family, signal.SIGSTOP)
        await trio.sleep(0.095)
        send_all(family, signal.SIGCONT)
        await trio.sleep(0.005)


def send_all(family: list[int], number: signal.Signals) -> None:
    """Send a signal to several processes."""
    for pid in family:
        os.kill(pid, number)


# --- R7

#: Calls that a slow disk makes slow.
DISK: Final = (
    "openat,openat2,newfstatat,statx,lstat,stat,unlink,unlinkat,rename,renameat,renameat2,mkdir,"
    "fsync,fdatasync,getdents64"
)


@pytest.mark.fault("R7")
@pytest.mark.parametrize("cores", [1, 2])
async def test_event_loop_never_waits_for_the_disk(site: Site, ledger: Ledger, cores: int) -> None:
    """While files pass and are refused, the event loop's thread makes no call to the disk."""
    set_cores(site, cores)
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        main, *others = threads(daemon.process.pid)
        async with open_record([main], site.root) as counts:
            for _ in range(10):
                ledger.send()
                ledger.send_forged()
            # A page of metrics reads /proc, in the event loop's thread.
            await daemon.emptied()
        assert not {*counts} & {*DISK.split(",")}, counts
        assert counts["sendto"]
        assert others
        assert await daemon.stop() == 0


@pytest.mark.fault("R7")
async def test_api_answers_while_the_disk_is_slow(
    site: Site, ledger: Ledger, database: Database
) -> None:
    """With every call to the disk delayed, answers come before the first file is removed."""
    async with open_daemon(site) as daemon:
        ledger.send()
        await daemon.settled()
        delay = inject(DISK, "delay_enter=1000000")
        async with open_strace(threads(daemon.process.pid)[1:], *delay):
            names = [ledger.send() for _ in range(3)]
            for _ in range(10):
                assert (await daemon.get(INFO))[0] == 200
            assert site.waiting() == sorted(names)
            await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


# --- R8


class Usage(NamedTuple):
    """What a process has."""

    descriptors: int
    threads: int
    memory: int


def usage(pid: int) -> Usage:
    """Descriptors, threads and resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        len(threads(pid)),
        pages * os.sysconf("SC_PAGE_SIZE"),
    )


async def operate(daemon: Daemon, ledger: Ledger, count: int) -> None:
    """So many run logs that are stored, refused, or put off and then refused, and requests."""
    whole = ledger.site.run_log("node0")
    for done in range(0, count, 100):
        for number in range(done, done + 100):
            ledger.send(reports=2)
            ledger.send_forged()
            in_place(ledger, whole[: len(whole) // 2])
            if not number % 10:
                assert (await daemon.get(INFO))[0] == 200
        await trio.sleep(0)
    await daemon.settled()


def in_place(ledger: Ledger, half: bytes) -> None:
    """Write half a run log under its final name, as if its writer were not done."""
    (ledger.site.incoming / ledger.next_bad_name()).write_bytes(half)


@pytest.mark.fault("R8")
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.torture)])
async def test_thousands_of_operations_leave_nothing_behind(
    site: Site, ledger: Ledger, database: Database, count: int
) -> None:
    """After thousands of each kind, descriptors, threads and memory are what they were."""
    async with open_daemon(site) as daemon:
        await operate(daemon, ledger, 500)
        (worker,) = children(daemon.process.pid)
        before = [usage(daemon.process.pid), usage(worker)]
        await operate(daemon, ledger, count)
        # The connection of the last request for metrics may still be closing.
        own = before[0].descriptors
        await eventually(lambda: usage(daemon.process.pid).descriptors <= own)
        after = [usage(daemon.process.pid), usage(worker)]
        assert await daemon.metric("rudder_relayd_retried_total", stage="examine") >= count / 10
        assert await daemon.stop() == 0
    for old, new in zip(before, after, strict=True):
        assert new.descriptors <= old.descriptors, (before, after)
        # Idle threads come and go; there are never many.
        assert new.threads <= 8, (before, after)
        # Tables of names have grown to their size by then.
        assert new.memory - old.memory < 8 * 2**20, (before, after)
    await ledger.balance(database)
