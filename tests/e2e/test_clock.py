"""relayd when the clock is wrong, or is set while it works."""

import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.spool.failed.reasons import read_reason, reason_path
from tests.support.clock import ShiftedClock
from tests.support.daemon import Site, eventually, open_daemon
from tests.support.ledger import Ledger
from tests.support.postgres import Database
from tests.support.signing import sign_runlog
from tests.support.wrappers import BOUND_BY_MODES

DAY_S: Final = 86_400
#: The clock that a process sees after a boot without a battery.
SINCE_1970_S: Final = -int(time.time()) + 60


#: The spool is cleaned every second.
CLEANUP = 'frequency = "1s"\nretention = "7days"'
pytestmark = pytest.mark.site(extra={"processing.reporting.cleanup": CLEANUP})


@pytest.fixture
def clock(tmp_path: Path) -> ShiftedClock:
    """Return the wall clock of relayd, right at first."""
    return ShiftedClock(tmp_path)


@pytest.mark.fault("T1")
async def test_files_from_the_future(site: Site, ledger: Ledger, database: Database) -> None:
    """Files that are a day ahead of the clock are processed, live ones and those of the backlog."""
    for _ in range(3):
        ledger.send()
        ledger.send_forged()
    tomorrow = time.time() + DAY_S
    for path in site.incoming.iterdir():
        os.utime(path, (tomorrow, tomorrow))
    async with open_daemon(site) as daemon:
        await daemon.settled()
        data = site.incoming.parent / "upload"
        name = ledger.next_bad_name()
        data.write_bytes(b"from tomorrow")
        os.utime(data, (tomorrow, tomorrow))
        data.rename(site.incoming / name)
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.parametrize(
    "suspended",
    [
        pytest.param(False, marks=pytest.mark.fault("T2")),
        pytest.param(True, marks=pytest.mark.fault("T6")),
    ],
)
async def test_clock_jumps_days_ahead(
    site: Site, ledger: Ledger, database: Database, clock: ShiftedClock, suspended: bool
) -> None:
    """Set eight days ahead, or resumed after as many, relayd deletes and gives up nothing."""
    forged = site.failed / ledger.send_forged()
    upload = site.incoming / ".davfs.tmpAb1234"
    upload.write_bytes(b"half a run lo")
    async with open_daemon(site, env=clock.env, wrapper=BOUND_BY_MODES) as daemon:
        await eventually(lambda: site.waiting() == [upload.name])
        unreadable = site.incoming / ledger.send()
        unreadable.chmod(0)
        await daemon.saw("file stays; will be retried")
        seen = len(daemon.lines)
        if suspended:
            daemon.process.send_signal(signal.SIGSTOP)
        clock.set(8 * DAY_S)
        daemon.process.send_signal(signal.SIGCONT)
        await daemon.saw("the clock was set; nothing is removed for now", since=seen)
        # Attempted once more at the new time.
        await daemon.saw("file stays; will be retried", since=seen)
        ledger.send()
        await eventually(lambda: site.waiting() == sorted([upload.name, unreadable.name]))
        assert forged.exists()
        unreadable.chmod(0o640)
        await eventually(lambda: site.waiting() == [upload.name])
        upload.unlink()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("T3")
async def test_clock_jumps_back(
    site: Site, ledger: Ledger, database: Database, clock: ShiftedClock
) -> None:
    """Set back by an hour, relayd keeps its timers and finds files that seem to be younger."""
    async with open_daemon(site, env=clock.env, wrapper=BOUND_BY_MODES) as daemon:
        unreadable = site.incoming / ledger.send()
        unreadable.chmod(0)
        await daemon.saw("file stays; will be retried")
        clock.set(-3600)
        unreadable.chmod(0o640)
        ledger.send()
        await daemon.settled()
        # Only a listing finds these.
        site.incoming.rename(site.root / "aside")
        site.incoming.mkdir()
        for _ in range(10):
            ledger.send_any()
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("T4")
async def test_boot_in_1970(
    site: Site, ledger: Ledger, database: Database, clock: ShiftedClock
) -> None:
    """Started in 1970 relayd works; once the clock is set right, nothing is removed, dates fit."""
    clock.set(SINCE_1970_S)
    ledger.send()
    early = ledger.send_forged()
    async with open_daemon(site, env=clock.env) as daemon:
        assert daemon.lines_of("1970-01-01T")
        ledger.send()
        await daemon.settled()
        clock.set(0)
        await daemon.saw("the clock was set; nothing is removed for now")
        ledger.send()
        late = ledger.send_forged()
        await daemon.settled()
        assert (await daemon.get("/metrics"))[0] == 200
        assert await daemon.stop() == 0
    assert year_of(site, early) == 1970
    assert year_of(site, late) > 2020
    await ledger.balance(database)


def year_of(site: Site, name: str) -> int:
    """Return the year in which a file was refused, according to its reason."""
    record = read_reason(reason_path(site.failed / name))
    assert record is not None
    return datetime.fromisoformat(record.time).year


#: Start dates around changes of the clock and with offsets that are no whole hours.
STARTS: Final = (
    "2026-10-25T02:30:00+02:00",  # before the end of summer time in Paris
    "2026-10-25T02:30:00+01:00",  # an hour later
    "2026-03-29T02:30:00+01:00",  # an hour that Paris does not have
    "2026-06-01T12:00:00+05:45",
    "2026-06-01T12:00:00-03:30",
    "2026-06-01T12:00:00+14:00",
    "2026-12-31T23:59:59-12:00",
)


@pytest.mark.fault("T5")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris", "Asia/Kathmandu", "America/St_Johns"])
async def test_instants_are_those_of_the_run_logs(
    site: Site, database: Database, zone: str
) -> None:
    """Whatever the zone of the machine and the offset of a run log, the instants are stored."""
    starts = [datetime.fromisoformat(start) for start in STARTS]
    async with open_daemon(site, env={"TZ": zone}) as daemon:
        for start in starts:
            text = make_runlog("node0", start, reports=2)
            site.upload(f"{start.isoformat()}@node0.log", sign_runlog(text, site.nodes["node0"]))
        await daemon.settled()
        assert await daemon.stop() == 0
    expected = sorted(int(start.timestamp()) for start in starts)
    for column in ("executiontimestamp", "executiondate"):
        rows = await database.fetch(
            f"SELECT DISTINCT extract(epoch FROM {column})::bigint FROM ruddersysevents"
        )
        assert sorted(int(epoch) for (epoch,) in rows) == expected
    rows = await database.fetch("SELECT extract(epoch FROM date)::bigint FROM reportsexecution")
    assert sorted(int(epoch) for (epoch,) in rows) == expected
