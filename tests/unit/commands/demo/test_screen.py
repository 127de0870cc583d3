"""The live display, from relayd's real exposition format to a line of text."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from rich.console import Console, RenderableType

from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.ledger import Entry
from relayd.commands.demo.observe import (
    Counters,
    Relay,
    Snapshot,
    Stored,
    StoredRun,
    read_counters,
    read_relay,
    read_stored,
)
from relayd.commands.demo.processes.workspace import Workspace
from relayd.commands.demo.remote_runs import RemoteRunClient
from relayd.commands.demo.screen import Screen, sparkline, summary
from relayd.commands.demo.tree import PolicyServer
from relayd.errors import Reason
from relayd.telemetry.metrics import Metrics

NODE = SimulatedNode(
    generate_private_key(65_537, 2048), "127.0.0.1", datetime(2026, 5, 4, tzinfo=UTC)
)
RUN = StoredRun("a", "2026-05-04 03:02:01+00", "20260504-1", 2.5)


def counters(database: str = "success") -> Counters:
    metrics = Metrics()
    metrics.duplicates.inc(2)
    metrics.spool_oldest_seconds.set(1.5)
    state = {"status": database} if database == "success" else {"details": database, "status": "x"}
    status = json.dumps({"data": {"database": state}}).encode()
    return read_counters(metrics.render().decode(), status)


def snapshot(time: float, run_logs: int, rows: int, database: str = "success") -> Snapshot:
    stored = Stored(run_logs, rows, (RUN,))
    return Snapshot(time, stored, {"signature": 3}, 7, counters(database))


def text(renderable: RenderableType, width: int = 110, height: int = 50) -> str:
    console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_counters_are_those_that_relayd_exposes() -> None:
    """Every figure of relayd is read under the name that relayd gives it."""
    assert counters("no answer") == Counters(duplicates=2, oldest=1.5, database="no answer")


def test_stored_run_logs_are_counted_in_the_database() -> None:
    """What psql prints is two counts and the last runs, also while there are none."""
    assert read_stored("0,0\n") == Stored()
    runs = "12,864\na,2026-05-04 03:02:01+00,20260504-1,2.5\n"
    assert read_stored(runs) == Stored(12, 864, (RUN,))


def test_relay_reads_what_relayd_exposes() -> None:
    """A relay's figures are read under the names that relayd gives them."""
    metrics = Metrics()
    metrics.spool_files.set(4)
    metrics.reports.labels("forward_ok").inc(7)
    metrics.reports.labels("forward_error").inc(2)
    metrics.reports.labels("ok").inc(9)
    assert read_relay(metrics.render().decode()) == Relay(waiting=4, forwarded=7, failed=2)


def test_line_shows_rates_queue_and_refusals() -> None:
    """The plain line shows rates, the queue with its age, and refusals with their reasons."""
    screen = Screen("demo", {})
    screen.add(snapshot(100.0, 10, 720), sent=20)
    screen.add(snapshot(102.0, 30, 2160), sent=40)
    assert screen.line() == (
        "   2 s  sent 40  stored 30 (10.0/s)  reports 2160 (720/s)  queued 7 (oldest 1.5 s)"
        "  replays 2  refused 3 (signature 3)  database ok"
    )


def test_rates_are_of_the_last_seconds() -> None:
    """Run logs stored long ago do not count in the current rate."""
    screen = Screen("demo", {})
    for second in range(20):
        screen.add(snapshot(float(second), 100 * min(second, 10), 0), sent=0)
    assert "(0.0/s)" in screen.line()


def test_panel_names_nodes_and_shows_the_database() -> None:
    """The panel shows the host names of the last runs and what is wrong with the database."""
    screen = Screen("demo of 1 node", {"a": "web.example"})
    screen.add(snapshot(1.0, 1, 72, "[Errno 111] refused [/red]"), sent=9)
    shown = text(screen)
    for part in ("demo of 1 node", "web.example", "2.5 s", "[Errno 111]", "[/red]", "signature"):
        assert part in shown


def test_relays_are_shown(tmp_path: Path) -> None:
    """Panel and line show for each relay its queue and what it forwarded, or that it is silent."""
    root = policy_server(tmp_path, "root server", None)
    first = policy_server(tmp_path, "relay 1", root)
    screen = Screen("demo", {}, [first, policy_server(tmp_path, "relay 2", first)])
    relays = (Relay(waiting=3, forwarded=120, failed=4), None)
    screen.add(replace(snapshot(1.0, 1, 72), relays=relays), sent=9)
    assert screen.line().endswith("relay 1: 3 waiting, 120 forwarded, 4 failed  relay 2: no answer")
    rows = [" ".join(line.strip("│ ").split()) for line in text(screen).splitlines()]
    assert "relay 1 → root server: 3 waiting, 120 forwarded, 4 failed" in rows
    assert "relay 2 → relay 1: no answer" in rows
    assert "no answer" not in text(screen, width=40)


@pytest.mark.fault("F48")
@pytest.mark.parametrize("relays", [0, 2, 20])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (60, 20), (40, 15), (20, 6)])
def test_display_fits_its_terminal(tmp_path: Path, relays: int, width: int, height: int) -> None:
    """Whatever the size, no line wraps, none is cut off below, and the figures come first."""
    root = policy_server(tmp_path, "root server", None)
    servers = [policy_server(tmp_path, f"relay {number}", root) for number in range(relays)]
    runs = RemoteRunClient(27_152, 60) if relays else None
    screen = Screen("relayd demo: 60 nodes", {}, servers, runs, "The database is stopped. " * 3)
    full = replace(
        snapshot(1.0, 12_345, 888_840, "[Errno 111] Connect call failed ('127.0.0.1', 16054)"),
        stored=Stored(12_345, 888_840, (RUN,) * 8),
        refused={reason.value: 1000 for reason in Reason},
        relays=(Relay(3, 120_000, 4),) * relays,
    )
    screen.add(full, sent=99_999)
    lines = text(screen, width, height).splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    if height >= 15:
        shown = "\n".join(lines)
        for part in ("sent", "99,999", "stored", "12,345", "waiting", "refused", "database"):
            assert part in shown
    if (width, relays) == (80, 2):
        assert (
            lines[-1]
            == "curl -d keep_output=true 127.0.0.1:27152/rudder/relay-api/1/remote-run/all"
        )


@pytest.mark.fault("F49")
def test_display_goes_on_while_relayd_or_the_database_is_away() -> None:
    """What relayd does not answer is said; its counters go on where they were when it is back."""
    screen = Screen("demo", {}, story="relayd is killed")
    screen.add(snapshot(1.0, 10, 720), sent=20)
    screen.add(replace(snapshot(2.0, 10, 720), counters=None), sent=30)
    assert "database relayd does not answer" in screen.line()
    assert "relayd is killed" in text(screen)
    screen.add(snapshot(3.0, 10, 720), sent=30)
    assert "replays 4" in screen.line()


def policy_server(root: Path, title: str, parent: PolicyServer | None) -> PolicyServer:
    """Return a policy server of which only the position in the tree matters."""
    return PolicyServer(title, NODE, Workspace(root), 3030, parent, "")


def test_sparkline_scales_to_its_highest_value() -> None:
    """The highest value is the highest bar; nothing is drawn if all values are 0."""
    assert sparkline([0, 3, 7, 14]) == "▁▃▅█"
    assert sparkline([0, 0]) == ""
    assert sparkline([]) == ""


def test_summary_marks_wrong_entries() -> None:
    """An entry that does not balance is marked, with both numbers."""
    shown = text(summary([Entry("rows", 3, 3), Entry("lost", 0, 1)], "2 uploads"))
    assert [line.split()[1:-1] for line in shown.splitlines() if "lost" in line] == [
        ["lost", "│", "0", "│", "1", "│", "WRONG"]
    ]
    assert shown.count("ok") == 1
