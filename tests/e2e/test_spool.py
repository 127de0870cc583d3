"""The spool under a real relayd: what happens to files that do not simply arrive and pass."""

import errno
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site, eventually, open_daemon
from tests.support.postgres import Database
from tests.support.proxy import BlackHole, Fault, Proxy, open_proxy
from tests.support.stored import check_stored
from tests.support.wrappers import BOUND_BY_MODES, failing

NODE = "node1"
DAY_S = 86_400


pytestmark = pytest.mark.site(nodes=[NODE])


@asynccontextmanager
async def open_held(
    site: Site, *, wrapper: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Daemon, Proxy]]:
    """Run relayd behind a proxy; run 0 is stored, so that it is connected."""
    async with open_proxy(site.database.host, site.database.port) as proxy:
        site.database = replace(site.database, host="127.0.0.1", port=proxy.port)
        site.write_conf()
        async with open_daemon(site, wrapper=wrapper) as daemon:
            site.send(NODE, 0)
            await daemon.settled()
            yield daemon, proxy


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it was last written to this long ago."""
    when = time.time() - seconds
    os.utime(path, (when, when), follow_symlinks=False)


def about(daemon: Daemon, name: str, level: str = "WARN") -> list[str]:
    """Log lines of a level that name a file."""
    return [line for line in daemon.lines if f" {level} " in line and f"file={name}" in line]


@pytest.mark.fault("S3")
async def test_newer_file_under_the_name_of_one_in_flight(site: Site, database: Database) -> None:
    """When a file is replaced while its run log is being stored, both run logs are stored."""
    async with open_held(site) as (daemon, proxy):
        proxy.fault = hold = BlackHole()
        name = site.send(NODE, 1)
        await hold.struck.wait()
        site.upload(name, site.run_log(NODE, 2))
        proxy.fault = Fault()
        hold.lift()
        await daemon.settled()
    check_stored(database.query, {(NODE, number) for number in range(3)})
    assert site.refused() == {}


@pytest.mark.fault("S5")
async def test_missing_failed_is_made_again(site: Site, database: Database) -> None:
    """A refused file is moved even if the directory `failed` was removed."""
    async with open_daemon(site) as daemon:
        site.failed.rmdir()
        site.upload("bob.log", b"x")
        await daemon.settled()
        site.send(NODE)
        await daemon.settled()
    assert site.refused() == {"bob.log": "bad_name"}
    check_stored(database.query, {(NODE, 0)})


@pytest.mark.fault("S5")
async def test_unwritable_failed_holds_up_refused_files_only(
    site: Site, database: Database
) -> None:
    """Where `failed` cannot be written, refused files wait with growing delays, others pass."""
    async with open_daemon(site, wrapper=BOUND_BY_MODES) as daemon:
        site.failed.chmod(0o555)
        site.upload("bob.log", b"x")
        await daemon.saw(r"WARN  disposal: file stays.*cannot be moved to failed: Permission")
        runs = {(NODE, number) for number in range(20)}
        for node_id, number in runs:
            site.send(node_id, number)
        await eventually(lambda: site.waiting() == ["bob.log"])
        site.failed.chmod(0o755)
        await daemon.settled()
    assert site.refused() == {"bob.log": "bad_name"}
    check_stored(database.query, runs)


@pytest.mark.fault("S6")
async def test_unlink_that_fails_after_the_commit(site: Site, database: Database) -> None:
    """A stored file that cannot be removed is not stored again, shows, and goes once it can."""
    async with open_held(site, wrapper=BOUND_BY_MODES) as (daemon, proxy):
        proxy.fault = hold = BlackHole()
        site.send(NODE, 1)
        await hold.struck.wait()
        site.incoming.chmod(0o555)
        proxy.fault = Fault()
        hold.lift()
        await daemon.saw(r"ERROR disposal: cannot remove committed file.*Permission denied")
        seen = len(daemon.lines)
        for _ in range(2):
            line = await daemon.saw("disposal: committed file stays", since=seen)
            seen = daemon.lines.index(line, seen) + 1
        assert await daemon.metric("rudder_relayd_reports_total", status="ok") == 2
        assert await daemon.metric("rudder_relayd_duplicates_total") == 0
        assert await daemon.metric("rudder_relayd_unremovable_files") >= 1
        site.incoming.chmod(0o755)
        await daemon.settled()
        await daemon.saw("committed files can be removed again")
        assert await daemon.metric("rudder_relayd_unremovable_files") == 0
    check_stored(database.query, {(NODE, 0), (NODE, 1)})


@pytest.mark.fault("S7")
@pytest.mark.history(3, 6)
async def test_abandoned_uploads_are_no_burden(site: Site, database: Database) -> None:
    """Thousands of temporary uploads delay nothing and are not counted; the old ones go."""
    for number in range(10_000):
        path = site.incoming / f".davfs.tmp{number:06}"
        path.touch()
        if number % 2:
            age(path, 8 * DAY_S)
    runs = {(NODE, number) for number in range(10)}
    for node_id, number in runs:
        age(site.incoming / site.send(node_id, number), 60)
    async with open_daemon(site) as daemon:
        await eventually(lambda: len(site.waiting()) == 5_000)
        assert await daemon.metric("rudder_relayd_spool_files") <= len(runs)
        site.send(NODE, 10)
        await eventually(lambda: len(site.waiting()) == 5_000)
    check_stored(database.query, {*runs, (NODE, 10)})
    assert all(int(name.removeprefix(".davfs.tmp")) % 2 == 0 for name in site.waiting())


@pytest.mark.fault("S9")
@pytest.mark.history(1, 2, 28)
async def test_strangers_are_refused_once_and_stop_nothing(site: Site, database: Database) -> None:
    """Bad names and unknown nodes are moved to `failed`, one line each; the next file passes."""
    stranger = site.name("stranger")
    async with open_daemon(site) as daemon:
        for number, name in enumerate(("bob.log", stranger, "a@b.log.gz", "@{.log")):
            site.upload(name, b"x")
            site.send(NODE, number)
        await daemon.settled()
        assert await daemon.metric("rudder_relayd_reports_total", status="invalid") == 1
        assert await daemon.metric("rudder_relayd_refused_total", reason="bad_name") == 3
        for name in ("bob.log", stranger, "a@b.log.gz", "@{.log"):
            assert len(about(daemon, name)) == 1, daemon.lines
        assert not any("Traceback" in line for line in daemon.lines)
    check_stored(database.query, {(NODE, number) for number in range(4)})
    assert site.refused() == {
        "bob.log": "bad_name",
        stranger: "unknown_node",
        "a@b.log.gz": "bad_name",
        "@{.log": "bad_name",
    }


@pytest.mark.fault("S10")
async def test_backlog_older_than_the_retention(site: Site, database: Database) -> None:
    """Old files are attempted at start; what cannot be done goes to `failed`, nothing is lost."""
    runs = {(NODE, number) for number in range(20)}
    for node_id, number in runs:
        age(site.incoming / site.send(node_id, number), 8 * DAY_S)
    forged = site.name(NODE, 20)
    age(site.upload(forged, b"no signature"), 8 * DAY_S)
    closed = site.upload(site.name(NODE, 21), site.run_log(NODE, 21))
    closed.chmod(0)
    age(closed, 8 * DAY_S)
    young = site.upload(site.name(NODE, 22), site.run_log(NODE, 22))
    young.chmod(0)
    async with open_daemon(site, wrapper=BOUND_BY_MODES) as daemon:
        await eventually(lambda: site.waiting() == [young.name])
        await daemon.saw(rf"WARN  disposal: refused.*=expired.*{re.escape(closed.name)}")
        assert await daemon.metric("rudder_relayd_refused_total", reason="expired") == 1
    check_stored(database.query, runs)
    assert site.refused() == {forged: "mime", closed.name: "expired"}
    assert (site.failed / closed.name).stat().st_size == young.stat().st_size


@pytest.mark.fault("S11", "D.3.2")
async def test_what_is_no_file_is_neither_opened_nor_followed(
    site: Site, database: Database, tmp_path: Path
) -> None:
    """A link of either kind, FIFO, socket or directory with a run-log name is moved as it is."""
    secret = tmp_path / "secret"
    content = site.run_log(NODE, 90)
    secret.write_bytes(content)
    names = (site.incoming / site.name(NODE, 10 + i) for i in range(6))
    link, fifo, sock, directory, live, hard = names
    link.symlink_to(secret)
    os.mkfifo(fifo)
    directory.mkdir()
    (directory / "inside").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{os.open(site.incoming, os.O_PATH)}/{sock.name}")
    async with open_daemon(site) as daemon:
        (tmp_path / "live").symlink_to(secret)
        (tmp_path / "live").rename(live)
        (tmp_path / "hard").hardlink_to(secret)
        (tmp_path / "hard").rename(hard)
        site.send(NODE, 0)
        await daemon.settled()
    check_stored(database.query, {(NODE, 0)})
    kinds = (link, fifo, sock, directory, live, hard)
    assert site.refused() == dict.fromkeys((path.name for path in kinds), "not_a_file")
    assert (site.failed / link.name).readlink() == secret
    assert (site.failed / fifo.name).is_fifo()
    assert (site.failed / sock.name).is_socket()
    assert (site.failed / directory.name / "inside").exists()
    assert secret.read_bytes() == content


@pytest.mark.fault("S12")
async def test_empty_files_are_refused_as_empty(site: Site) -> None:
    """An empty upload is refused at once; one written in place once it had time to grow."""
    async with open_daemon(site) as daemon:
        site.upload(site.name(NODE, 1), b"")
        (site.incoming / site.name(NODE, 2)).touch()
        await daemon.settled()
    assert site.refused() == dict.fromkeys((site.name(NODE, 1), site.name(NODE, 2)), "empty")


@pytest.mark.fault("S13")
async def test_writer_that_does_not_rename(site: Site, database: Database) -> None:
    """A file written in place in several steps is held until it is whole, then stored."""
    site.extra["processing.reporting"] = 'settle_time = "10min"'
    site.write_conf()
    data = site.run_log(NODE, 1)
    path = site.incoming / site.name(NODE, 1)
    async with open_daemon(site) as daemon:
        for start in range(0, len(data) - 1000, len(data) // 3):
            seen = len(daemon.lines)
            with path.open("ab") as file:
                file.write(data[path.stat().st_size : start + 500])
            await daemon.saw(r"file stays.*perhaps not finished yet", since=seen)
        with path.open("ab") as file:
            file.write(data[path.stat().st_size :])
        await daemon.settled()
    check_stored(database.query, {(NODE, 1)})
    assert site.refused() == {}


@pytest.mark.fault("S20")
@pytest.mark.parametrize(("size", "reason"), [(0, "empty"), (1500, "mime")])
async def test_file_cut_short_by_a_power_failure(site: Site, size: int, reason: str) -> None:
    """A short file found at start is held while it is young, then refused."""
    site.extra["processing.reporting"] = 'settle_time = "10min"'
    site.write_conf()
    path = site.upload(site.name(NODE, 1), site.run_log(NODE, 1)[:size])
    async with open_daemon(site) as daemon:
        await daemon.saw(rf"file stays.*perhaps not finished yet.*file={re.escape(path.name)}")
        age(path, 3600)
        await daemon.post("/rudder/relay-api/1/system/reload")
        await daemon.settled()
    assert site.refused() == {path.name: reason}


ODD_NAMES = [
    b"\xff\xfe.log",
    b"two\nlines.log",
    b"\x1b[31mred\x1b[0m.log",
    b"x" * 251 + b".log",
    b"%2e%2e%2f.log",
    b"2026-03-01T12:00:00+00:00@a?b#c.log",
    b"2026-03-01T12:00:00+00:00@%2e%2e%2f.log",
    b"2026-03-01T12:00:00+00:00@\xe2\x80\xae.log",
    b"2026-03-01T12:00:00+00:00@" + b"n" * 225 + b".log",
    b" .log",
]


@pytest.mark.fault("S14")
async def test_odd_names(site: Site, database: Database) -> None:
    """Names of any bytes are refused under that name, and no log line carries them raw."""
    async with open_daemon(site) as daemon:
        for name in ODD_NAMES:
            site.upload(os.fsdecode(name), b"x")
        site.send(NODE, 0)
        await daemon.settled()
        refusals = [line for line in daemon.lines if "moved to failed" in line]
        assert len(refusals) == len(ODD_NAMES)
        assert all(line.isprintable() for line in daemon.lines)
    check_stored(database.query, {(NODE, 0)})
    assert set(site.refused()) == {os.fsdecode(name) for name in ODD_NAMES}
    assert {os.fsdecode(name) for name in ODD_NAMES} <= {p.name for p in site.failed.iterdir()}


@pytest.mark.fault("S15")
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("openat", "EIO"),
        ("openat", "EACCES"),
        ("openat", "ENOMEM"),
        ("openat", "EMFILE"),
        ("newfstatat", "EIO"),
        ("read", "EIO"),
    ],
)
async def test_errors_of_reading_are_not_the_files_fault(
    site: Site, database: Database, call: str, error: str
) -> None:
    """A file that cannot be opened or read for now stays, and is stored when it can."""
    path = site.upload(site.name(NODE, 0), site.run_log(NODE, 0))
    async with open_daemon(site, wrapper=failing(call, error, "1..2", path)) as daemon:
        await daemon.settled()
        line = await daemon.saw("file stays; will be retried")
        assert os.strerror(getattr(errno, error)) in line
        assert path.name in line
    check_stored(database.query, {(NODE, 0)})
    assert site.refused() == {}


@pytest.mark.fault("S15")
@pytest.mark.site(nodes=[NODE, "node0"])
async def test_damaged_entry_does_not_hide_its_neighbours(site: Site, database: Database) -> None:
    """Where one entry cannot be examined, the listing goes on with the others."""
    path = site.upload(site.name("node0", 0), site.run_log("node0", 0))
    for number in range(1, 4):
        site.send(NODE, number)
    async with open_daemon(site, wrapper=failing("newfstatat", "EIO", "1+", path)) as daemon:
        await daemon.saw(rf"file stays.*Input/output error.*{re.escape(path.name)}")
        await eventually(lambda: site.waiting() == [path.name])
    check_stored(database.query, {(NODE, 1), (NODE, 2), (NODE, 3)})
    assert site.refused() == {}


@pytest.mark.fault("S16")
async def test_file_that_somebody_else_took(site: Site, database: Database) -> None:
    """A file that is gone before it is opened, or once it is stored, is no error."""
    async with open_held(site) as (daemon, proxy):
        seen = len(daemon.lines)
        daemon.process.send_signal(signal.SIGSTOP)
        site.upload(site.name(NODE, 1), b"x").unlink()
        daemon.process.send_signal(signal.SIGCONT)
        await daemon.saw(f"DEBUG disposal: file is gone file={re.escape(site.name(NODE, 1))}")
        proxy.fault = hold = BlackHole()
        path = site.incoming / site.send(NODE, 2)
        await hold.struck.wait()
        path.unlink()
        proxy.fault = Fault()
        hold.lift()
        site.send(NODE, 3)
        await daemon.settled()
        assert not [line for line in daemon.lines[seen:] if " WARN " in line or " ERROR " in line]
    check_stored(database.query, {(NODE, 0), (NODE, 2), (NODE, 3)})


@pytest.mark.fault("S17")
async def test_events_and_listings_of_one_file(site: Site, database: Database) -> None:
    """Files in flight that are announced again and listed again are stored once, asked once."""
    async with open_held(site) as (daemon, proxy):
        proxy.fault = hold = BlackHole()
        paths = [site.incoming / site.send(NODE, number) for number in range(1, 11)]
        await hold.struck.wait()
        for path in paths:
            path.open("ab").close()
        await daemon.post("/rudder/relay-api/1/system/reload")
        for path in paths:
            path.open("ab").close()
        # What was taken up before this one has been read when this one is refused.
        site.upload(site.name(NODE, 20), b"no signature")
        await eventually(lambda: bool(site.refused()))
        proxy.fault = Fault()
        hold.lift()
        await daemon.settled()
        assert await daemon.metric("rudder_relayd_reports_total", status="ok") == 11
        assert await daemon.metric("rudder_relayd_duplicates_total") == 0
    check_stored(database.query, {(NODE, number) for number in range(11)})
