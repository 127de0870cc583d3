"""Run logs as agents have sent them over the years, from the upload to the row."""

import gzip
import io
import zipfile
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.support.daemon import START, Site, open_daemon
from tests.support.postgres import Database
from tests.support.runlogs import STAMP, joined, report
from tests.support.signing import sign_runlog
from tests.support.stored import stored_executions, stored_rows

NODE = "node1"
BEGIN = report("Start execution", event="control", component="start", key="config-1")
END = report("End execution", event="control", component="end", key="config-1")


pytestmark = pytest.mark.site(nodes=[NODE])


def zipped(data: bytes) -> bytes:
    """Return a zip archive of one member."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("run.log", data)
    return archive.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zip": zipped}


@pytest.mark.history(27)
async def test_all_forms_of_file_names(site: Site, database: Database) -> None:
    """Both orders of date and node, colons or underscores, plain, gzip and zip are all stored."""
    count = 0
    async with open_daemon(site) as daemon:
        for form in ("{date}@{node}.log", "{node}_{date}.log"):
            for colon in ":_":
                for extension, pack in PACKERS.items():
                    date = (START + timedelta(minutes=count)).isoformat().replace(":", colon)
                    name = form.format(date=date, node=NODE) + extension
                    site.upload(name, pack(site.run_log(NODE, count)))
                    count += 1
        await daemon.settled()
    assert stored_rows(database.query) == {(NODE, number): 6 for number in range(count)}
    assert stored_executions(database.query) == {(NODE, number): 1 for number in range(count)}
    assert site.refused() == {}


async def stored_messages(
    site: Site, database: Database, text: bytes, name: str | None = None
) -> list[tuple[str, ...]]:
    """Event type and message of what is stored of this text, in order."""
    async with open_daemon(site) as daemon:
        site.upload(name or site.name(NODE), sign_runlog(text, site.nodes[NODE]))
        await daemon.settled()
    assert site.refused() == {}
    return database.query("SELECT eventtype, msg FROM ruddersysevents ORDER BY id")


@pytest.mark.fault("P10")
@pytest.mark.history(21)
async def test_run_without_start(site: Site, database: Database) -> None:
    """Noise before the first entry is skipped; a run without `start` has no execution row."""
    text = joined("Sorry, some program wrote here", report("one"), report("two"), END)
    assert await stored_messages(site, database, text) == [
        ("result_success", "one"),
        ("result_success", "two"),
        ("control", "End execution"),
    ]
    assert stored_executions(database.query) == {}


@pytest.mark.history(22)
async def test_run_without_end(site: Site, database: Database) -> None:
    """An interrupted run is stored, with its execution row and configuration id."""
    stored = await stored_messages(site, database, joined(BEGIN, report("one")))
    assert [message for _, message in stored] == ["Start execution", "one"]
    found = database.query("SELECT nodeid, nodeconfigid, insertionid FROM reportsexecution")
    (first,) = database.query("SELECT min(id) FROM ruddersysevents")
    assert found == [(NODE, "config-1", *first)]


@pytest.mark.history(23, 24)
async def test_name_of_another_date(site: Site, database: Database) -> None:
    """The date of the run is that of its reports, whatever the file name says."""
    text = joined(BEGIN, report("one"), END)
    name = site.name(NODE, 90 * 24 * 60)
    assert len(await stored_messages(site, database, text, name)) == 3
    assert stored_rows(database.query) == {(NODE, 0): 3}
    assert stored_executions(database.query) == {(NODE, 0): 1}


@pytest.mark.history(19, 20)
async def test_log_entries_become_rows_before_their_report(site: Site, database: Database) -> None:
    """Log lines of the agent, with its name, levels and blanks of all kinds, are stored too."""
    text = joined(
        BEGIN,
        f"{STAMP} rudder     info: reading the policies",
        f"{STAMP}  warning:   low on disk",
        f"{STAMP} CRITICAL:toto",
        f"{STAMP} R: [INFO] hello",
        "and more of it",
        report("one"),
        END,
    )
    assert await stored_messages(site, database, text) == [
        ("control", "Start execution"),
        ("log_info", "reading the policies"),
        ("log_warn", "low on disk"),
        ("log_warn", "toto"),
        ("log_info", "hello\nand more of it"),
        ("result_success", "one"),
        ("control", "End execution"),
    ]


@pytest.mark.fault("P7", "P8")
async def test_broken_report_among_good_ones(site: Site, database: Database) -> None:
    """A broken report costs itself only; the log names the node and shows little, escaped."""
    broken = f"{STAMP} R: @@Common@@result_error\x1b[31m" + "x" * 5_000
    async with open_daemon(site) as daemon:
        text = joined(BEGIN, report("one"), broken, report("two"), END)
        site.upload(site.name(NODE), sign_runlog(text, site.nodes[NODE]))
        await daemon.settled()
        line = await daemon.saw("WARN  examine: run log has flaws")
        assert f"node={NODE}" in line
        assert line.isprintable()
        assert 0 < line.count("x") < 260
    stored = database.query("SELECT msg FROM ruddersysevents ORDER BY id")
    assert stored == [("Start execution",), ("one",), ("two",), ("End execution",)]


@pytest.mark.history(29)
async def test_empty_run_log_is_called_so(site: Site) -> None:
    """A signed run log without text, or without reports, is not blamed on its signature."""
    async with open_daemon(site) as daemon:
        for number, text in enumerate((b"", joined(f"{STAMP} R: [INFO] nothing to report"))):
            site.upload(site.name(NODE, number), sign_runlog(text, site.nodes[NODE]))
        await daemon.settled()
    assert site.refused() == {site.name(NODE, 0): "empty", site.name(NODE, 1): "no_report"}
