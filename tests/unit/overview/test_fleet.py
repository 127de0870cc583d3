"""What a spool with many files shows, without looking at each of them."""

import os
import time
from pathlib import Path

from relayd.commands.status.offline import OLDEST_RUNS, offline_overview
from relayd.config.main_conf import GeneralSettings, ProcessingSettings, ReportingSettings, Settings
from relayd.overview.fleet import FleetView, known_node, known_nodes
from relayd.overview.nodes import NodesChoice
from relayd.overview.one_node import NAMED
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
