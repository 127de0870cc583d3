"""What a spool with many files shows, without looking at each of them."""

import os
import time
from pathlib import Path
from typing import Final

import pytest

from relayd import __version__
from relayd.api.page.html import path_of
from relayd.commands.status.offline import OLDEST_RUNS, offline_overview
from relayd.commands.status.screen import status_lines
from relayd.config.main_conf import GeneralSettings, ProcessingSettings, ReportingSettings, Settings
from relayd.errors import Reason, Refused
from relayd.overview.fleet import FleetView, known_node, known_nodes
from relayd.overview.nodes import NodesChoice
from relayd.overview.one_node import NAMED
from relayd.spool.failed.quarantine import RefusedFile, quarantine_all
from relayd.spool.layout import run_log_spool
from relayd.spool.operations.rules import change_rules
from relayd.system.printable import shown
from relayd.telemetry.nodes.records import NodeRecords
from tests.support.remote_run import make_nodes

NODES = make_nodes(["n1", "n2"])


def _settings(root: Path) -> Settings:
    reporting = ReportingSettings(directory=root / "reports", output="database")
    return Settings(
        general=GeneralSettings(
            node_id="root", nodes_list_file=root / "none", state_directory=root
        ),
        processing=ProcessingSettings(reporting=reporting),
    )


def _fill(root: Path, count: int) -> list[str]:
    incoming = root / "reports" / "incoming"
    incoming.mkdir(parents=True)
    names = [f"2026-11-28T{10 + n // 60}:{n % 60:02}:00+00:00@n1.log" for n in range(count)]
    for name in (*names, "n2_2026-11-28T09_00_00+00_00.log.gz", "n1.log", ".x@n1.log"):
        (incoming / name).touch()
    return names


def test_the_oldest_files_of_a_node_are_named(tmp_path: Path) -> None:
    """All files of a node are counted; the oldest are named, whatever form their names have."""
    names = _fill(tmp_path, 3 * NAMED)
    view, records = FleetView(_settings(tmp_path)), NodeRecords()
    detail = view.one(known_node(NODES, records, "n1"), "n1")
    assert detail.row.waiting == 3 * NAMED
    assert [file.name for file in detail.waiting] == names[:NAMED]
    page = view.some(known_nodes(NODES, records.copy()), NodesChoice(sort="waiting", limit=2))
    assert [(row.node_id, row.waiting) for row in page.rows] == [("n1", 3 * NAMED), ("n2", 1)]
    assert page.total == 3


def test_the_oldest_arrival_is_found_among_the_oldest_runs(tmp_path: Path) -> None:
    """A run log that has waited for hours is found with a look at a few of very many."""
    names = _fill(tmp_path, 4 * OLDEST_RUNS)
    incoming, long_ago = tmp_path / "reports" / "incoming", time.time() - 7200
    os.utime(incoming / names[OLDEST_RUNS // 2], (long_ago, long_ago))
    backlog = offline_overview(_settings(tmp_path), "").backlog
    assert backlog.files == 4 * OLDEST_RUNS + 2
    assert backlog.oldest_s is not None
    assert 7200 <= backlog.oldest_s < 7300


def test_what_is_on_hold_is_shown_of_its_node_and_of_all_of_them(tmp_path: Path) -> None:
    """A node on hold is named even before one of its files is there: nobody forgets it."""
    _fill(tmp_path, 0)
    settings, view = _settings(tmp_path), FleetView(_settings(tmp_path))
    records = NodeRecords()
    change_rules(run_log_spool(tmp_path / "reports"), add=["n2"], by="ann")
    detail = view.one(known_node(NODES, records, "n2"), "n2")
    assert (detail.held, detail.on_hold_by) == (0, "ann")
    aside = tmp_path / "reports" / "on-hold" / "incoming"
    aside.mkdir(exist_ok=True)
    for node in ("n1", "n1", "n2"):
        (aside / f"2026-11-28T10:0{len(list(aside.iterdir()))}:00+00:00@{node}.log").touch()
    detail = view.one(known_node(NODES, records, "n1"), "n1")
    assert (detail.held, detail.on_hold_since) == (2, None)
    overview = offline_overview(settings, "")
    assert (overview.held, overview.nodes_on_hold) == (3, 1)
    lines = "\n".join(status_lines(overview))
    assert "on hold      3 files, and all that arrives of 1 node" in lines
    assert "relayd queue list --state held" in lines
    # The id of every root server is no name, and none is known here.
    assert lines.startswith(f"relayd {__version__}, root server\n")


RUN: Final = "2026-11-28T10:00:00+00:00@n1.log"


@pytest.mark.parametrize(
    "name", [RUN, "\\xff@n1.log", os.fsdecode(b"\xff.log"), '\N{SNOWMAN} "><b>.log']
)
def test_a_file_is_found_by_the_name_that_is_shown(tmp_path: Path, name: str) -> None:
    """Whatever bytes a name has, the list of refused files has a name that leads to the file."""
    _fill(tmp_path, 0)
    view, reports = FleetView(_settings(tmp_path)), tmp_path / "reports"
    incoming, failed = reports / "incoming", reports / "failed"
    assert view.where(shown(name)).state == "unknown"
    aside = reports / "on-hold" / "incoming~1"
    aside.mkdir(parents=True)
    (aside / name).touch()
    assert view.where(shown(name)).state == "held"
    (aside / name).unlink()
    (incoming / name).touch()
    place = view.where(shown(name))
    assert (place.state, place.node_id) == ("waiting", "n1" if name == RUN else "")
    refused = RefusedFile(name, None, Refused(Reason.BAD_NAME, "detail"), "n1", "")
    quarantine_all(incoming, failed, [refused])
    (listed,) = view.refused("bad_name", 9).files
    place = view.where(listed.name)
    assert (place.state, place.node_id, place.reason) == ("refused", "n1", "bad_name")
    assert path_of(listed.name)


@pytest.mark.parametrize("name", ["", ".", "..", "../main.conf", "x\0.log", "\ud800", "a" * 300])
def test_no_path_leads_out_of_a_spool(tmp_path: Path, name: str) -> None:
    """A name that is a path, or that no file can have, is that of no file."""
    _fill(tmp_path, 0)
    (tmp_path / "reports" / "main.conf").touch()
    assert FleetView(_settings(tmp_path)).where(name).state == "unknown"


def test_the_latest_refused_files_are_read_and_all_are_counted(tmp_path: Path) -> None:
    """A page of refused files does not read the reason of each of very many."""
    names = _fill(tmp_path, 5)
    incoming, failed = tmp_path / "reports" / "incoming", tmp_path / "reports" / "failed"
    for name in names:
        refused = RefusedFile(name, None, Refused(Reason.SIGNATURE, "detail"), "n1", "")
        quarantine_all(incoming, failed, [refused])
    found = FleetView(_settings(tmp_path)).refused("signature", 2)
    assert [file.name for file in found.files] == names[:-3:-1]
    assert found.total == 5
