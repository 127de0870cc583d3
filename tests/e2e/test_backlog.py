"""Many files that waited: a real relayd gets through them, in order and in bounded memory."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.nodes.saved import read_saved, write_saved
from tests.support.daemon import Daemon, Site, eventually, open_daemon
from tests.support.postgres import Database
from tests.support.stored import Run, check_stored
from tests.support.wrappers import BOUND_BY_MODES

NODE = "node1"
OTHERS = ("node2", "node3")
REPORTS = 3


pytestmark = pytest.mark.site(nodes=[NODE])


def add_backlog(site: Site, files: int, *, first: int = 0) -> set[Run]:
    """Leaves run logs in the spool, a second apart, the first one the oldest."""
    runs = set()
    now = time.time()
    for number in range(first, first + files):
        path = site.incoming / site.name(NODE, number)
        path.write_bytes(site.run_log(NODE, number, reports=REPORTS))
        when = now - 3600 - files + number
        os.utime(path, (when, when))
        runs.add((NODE, number))
    return runs


def peak_memory(daemon: Daemon) -> int:
    """Return the sum of the peak memory of relayd and each of its workers so far, in KiB."""
    parent = daemon.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for thread in Path(f"/proc/{parent}/task").iterdir():
        children += (thread / "children").read_text().split()
    return sum(_high_water(int(pid)) for pid in {parent, *map(int, children)})


def _high_water(pid: int) -> int:
    """VmHWM of proc_pid_status(5), in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def work_off(site: Site) -> int:
    """Run relayd until the spool is empty; its peak memory in KiB."""
    async with open_daemon(site) as daemon:
        await eventually(lambda: not any(site.incoming.iterdir()), patience=900)
        peak = peak_memory(daemon)
        assert await daemon.stop() == 0
    return peak


@pytest.mark.fault("S18")
@pytest.mark.parametrize(
    "files",
    [
        2_000,
        pytest.param(20_000, marks=[pytest.mark.torture, pytest.mark.timeout(900)]),
        pytest.param(100_000, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
async def test_memory_does_not_grow_with_the_backlog(
    site: Site, database: Database, files: int
) -> None:
    """A backlog is worked off in about the memory that a twentieth of it takes."""
    runs = add_backlog(site, 100)
    small = await work_off(site)
    runs |= add_backlog(site, files, first=100)
    large = await work_off(site)
    assert large < 1.3 * small, (small, large)
    check_stored(database.query, runs, reports=REPORTS)
    assert site.refused() == {}


@pytest.mark.fault("S18")
async def test_oldest_first(site: Site, database: Database) -> None:
    """Files of a backlog are stored in the order of their age, whatever the directory's is."""
    site.extra["general"] = "core_threads = 1"
    site.write_conf()
    add_backlog(site, 600)
    await work_off(site)
    stored = database.query("SELECT executiontimestamp FROM ruddersysevents ORDER BY id")
    assert len(stored) == 600 * REPORTS
    assert stored == sorted(stored)


@pytest.mark.fault("S8")
@pytest.mark.site(nodes=[NODE, *OTHERS])
async def test_poison_in_front(site: Site, database: Database) -> None:
    """A thousand files that cannot pass, older than all others, do not hold up a thousand good."""
    runs = add_backlog(site, 1_000)
    closed, refused = set(), set()
    for number in range(1_000, 2_000):
        node = OTHERS[number % 2]
        path = site.incoming / site.name(node, number)
        path.write_bytes(site.run_log(node, 5_000)[:-40])
        os.utime(path, (time.time() - 86_400 + number,) * 2)
        if number % 2:
            path.chmod(0)
            closed.add(path.name)
        else:
            refused.add(path.name)
    async with open_daemon(site, wrapper=BOUND_BY_MODES) as daemon:
        await eventually(lambda: set(site.waiting()) == closed)
        live = site.send(NODE, 3_000, reports=REPORTS)
        await eventually(lambda: live not in site.waiting())
        await daemon.idle()
        assert set(site.refused()) == refused
        assert await daemon.metric("rudder_relayd_reports_total", status="ok") == 1_001
    check_stored(database.query, {*runs, (NODE, 3_000)}, reports=REPORTS)


@pytest.mark.fault("S18")
@pytest.mark.site(nodes=[NODE, *OTHERS])
async def test_new_files_do_not_wait_for_the_backlog(site: Site, database: Database) -> None:
    """A run log that arrives now is stored while older ones of other nodes still wait."""
    runs = add_backlog(site, 3_000)
    async with open_daemon(site) as daemon:
        await daemon.saw("watch: watching")
        name = site.send(OTHERS[0], 9_000, reports=REPORTS)
        await eventually(lambda: name not in site.waiting())
        assert site.waiting()
        await daemon.settled()
    check_stored(database.query, {*runs, (OTHERS[0], 9_000)}, reports=REPORTS)


NODES = [f"node{number}" for number in range(1, 7)]


def _is_down_to(site: Site, files: int) -> bool:
    return len(site.waiting()) <= files


@pytest.mark.fault("F18", "F33")
@pytest.mark.site(nodes=NODES, extra={"processing.reporting.catchup": "limit = 0"})
@pytest.mark.parametrize("waiting", [40, pytest.param(250, marks=pytest.mark.torture)])
async def test_fresh_runs_come_after_the_older_ones_of_their_node(
    site: Site, database: Database, waiting: int
) -> None:
    """The run of a node that is inserted last is its newest, whenever fresh ones arrive.

    The records of the nodes and the metrics of the lag say the same, and survive a restart.
    """
    earlier = NodeRecords()
    earlier.note_inventory(NODES[0], "forwarded", 1_800_000_000.0)
    write_saved(site.root, earlier.dump())
    for node in NODES[1:]:
        for number in range(waiting):
            (site.incoming / site.name(node, number)).write_bytes(site.run_log(node, number))
    async with open_daemon(site) as daemon:
        for fresh in range(4):
            for node in NODES:
                site.send(node, waiting + fresh)
            left = (waiting * len(NODES[1:])) * (3 - fresh) // 4
            await eventually(partial(_is_down_to, site, left + len(NODES)))
        await daemon.settled()
        assert await daemon.metric("rudder_relayd_spool_files") == 0
        assert await daemon.metric("rudder_relayd_reports_arrived_total") == 4 * len(NODES)
        processed = waiting * len(NODES[1:]) + 4 * len(NODES)
        assert await daemon.metric("rudder_relayd_lag_seconds_count", hop="here") == processed
        assert await daemon.stop() == 0
    saved = read_saved(site.root)
    assert saved is not None
    records = NodeRecords()
    records.restore(saved)
    assert {record.node_id for record in records} == set(NODES)
    for record in records:
        assert record.run == site.start(waiting + 3).timestamp()
        assert (record.outcome, record.reports) == ("stored", 6)
        expected = 1_800_000_000.0 if record.node_id == NODES[0] else None
        assert record.inventory_at == expected
    rows = database.query("SELECT nodeid, date FROM reportsexecution ORDER BY insertionid")
    assert len(rows) == waiting * len(NODES[1:]) + 4 * len(NODES)
    for node in NODES:
        dates = [date for owner, date in rows if owner == node]
        assert dates == sorted(dates)
