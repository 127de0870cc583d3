"""What the parser makes of odd run logs, stored by a real PostgreSQL."""

from datetime import UTC, datetime

import pytest
import trio_asyncio

from relayd.outputs.postgres.connection import Patience
from relayd.outputs.postgres.database import Database
from relayd.outputs.results import Stored
from relayd.runlog.model import RunLog
from tests.support import postgres
from tests.support.runlogs import START, joined, make_runlog, read, report, rows

OPENING = report("Start execution", event="control", component="start", key="config-1")


async def store(database: postgres.Database, run_log: RunLog) -> None:
    """Insert a run log, which must succeed."""
    async with trio_asyncio.open_loop():
        writer = Database(database.rudder.keywords(), Patience())
        try:
            (outcome,) = await writer.write([run_log])
        finally:
            await writer.aclose()
    assert isinstance(outcome, Stored), outcome


@pytest.mark.fault("T5", "P11", "D14")
async def test_every_date_is_stored_as_its_instant(database: postgres.Database) -> None:
    """Whatever its spelling and offset, a date is stored as the instant that it names."""
    instants = {
        "2026-03-29T02:30:00+01:00": "2026-03-29 01:30:00",
        "2026-03-29T02:30:00+02:00": "2026-03-29 00:30:00",
        "2026-03-01T12:00:00+05:45": "2026-03-01 06:15:00",
        "2026-03-01T12:00:00-03:30": "2026-03-01 15:30:00",
        "2026-03-01T12:00:00-00:00": "2026-03-01 12:00:00",
        "2026-03-01T12:00:00+15:59": "2026-02-28 20:01:00",
        "2026-03-01T12:00:00-15:59": "2026-03-02 03:59:00",
        "2026-03-01T12:00:00+16:00": "2026-02-28 20:00:00",
        "2026-03-01T12:00:00-23:59": "2026-03-02 11:59:00",
        "2026-03-01t12:00:00.1234567z": "2026-03-01 12:00:00.123456",
        "2016-12-31T23:59:60Z": "2017-01-01 00:00:00",
        "2016-12-31T23:59:60.5+00:00": "2017-01-01 00:00:00.5",
        "0001-01-01T00:00:00Z": "0001-01-01 00:00:00",
        "0001-01-01T00:00:00+14:00": "0001-12-31 10:00:00 BC",
        "9999-12-31T23:59:59-15:00": "10000-01-01 14:59:59",
    }
    run_log = read(joined(OPENING, *[report(stamp=stamp) for stamp in instants]))
    assert run_log.rows == 1 + len(instants)
    await store(database, run_log)
    found = await database.fetch(
        "SELECT executiondate AT TIME ZONE 'UTC' FROM ruddersysevents ORDER BY id OFFSET 1"
    )
    assert [row[0] for row in found] == list(instants.values())


@pytest.mark.fault("T5")
@pytest.mark.parametrize(
    ("start", "stored"),
    [
        (START, "2026-03-01 12:00:00"),
        ("2026-10-25 02:30:00 +02:00", "2026-10-25 00:30:00"),
        ("2026-10-25 02:30:00+01:00", "2026-10-25 01:30:00"),
        ("2016-12-31 23:59:60+00:00", "2017-01-01 00:00:00"),
    ],
)
async def test_start_is_stored_as_its_instant(
    database: postgres.Database, start: str, stored: str
) -> None:
    """START of the reports and the date of the execution are the same instant."""
    await store(database, read(joined(OPENING.replace(START, start), report(start=start))))
    found = await database.fetch(
        "SELECT DISTINCT executiontimestamp AT TIME ZONE 'UTC', date AT TIME ZONE 'UTC'"
        " FROM ruddersysevents, reportsexecution"
    )
    assert found == [(stored, stored)]


@pytest.mark.fault("D12", "D14", "P6")
@pytest.mark.history(26)
async def test_rows_that_the_table_would_refuse_never_reach_it(
    database: postgres.Database,
) -> None:
    """Empty fields, NUL and bytes that are not UTF-8 cost their row or themselves, no more."""
    text = joined(
        OPENING,
        report("no rule", rule=""),
        report("no directive", directive=""),
        report("no component", component=""),
        report("nul \0, bad ?, tab \t, back\\slash\\N, two\nlines"),
        report("no key", key="", report_id=""),
    )
    run_log = read(text.replace(b"?", b"\xff\xfe"))
    await store(database, run_log)
    found = await database.fetch(
        "SELECT msg, keyvalue, reportid FROM ruddersysevents ORDER BY id OFFSET 1"
    )
    assert found == [
        ("nul , bad \ufffd\ufffd, tab \t, back\\slash\\N, two\nlines", "vim", "0"),
        ("no key", "None", "0"),
    ]
    assert len(run_log.warnings) == 4


@pytest.mark.fault("P10")
@pytest.mark.history(21, 22)
@pytest.mark.parametrize(
    ("lines", "executions"),
    [
        pytest.param([OPENING, report()], [("config-1",)], id="no end"),
        pytest.param(["noise", OPENING, report()], [("config-1",)], id="noise"),
        pytest.param([report(), report(event="control", component="end")], [], id="no start"),
        pytest.param([report(), report()], [], id="neither"),
    ],
)
async def test_only_a_start_report_makes_an_execution(
    database: postgres.Database, lines: list[str], executions: list[tuple[str, ...]]
) -> None:
    """All reports are inserted; only a run whose start was reported gets an execution."""
    run_log = read(joined(*lines))
    await store(database, run_log)
    assert await database.fetch("SELECT count(*) FROM ruddersysevents") == [("2",)]
    assert await database.fetch("SELECT nodeconfigid FROM reportsexecution") == executions


async def test_columns_come_back_as_they_were_parsed(database: postgres.Database) -> None:
    """Each field of each row is in the column that is named after it."""
    run_log = read(make_runlog("root", datetime(2026, 3, 1, 12, tzinfo=UTC), 20), "root")
    await store(database, run_log)
    found = await database.fetch(
        "SELECT ruleid, directiveid, component, keyvalue, eventtype, msg, policy, reportid"
        " FROM ruddersysevents WHERE nodeid = 'root' ORDER BY id"
    )
    names = ("rule_id", "directive_id", "component", "key_value", "event_type", "msg", "policy")
    wanted = [tuple(getattr(row, name) for name in (*names, "report_id")) for row in rows(run_log)]
    assert found == wanted
