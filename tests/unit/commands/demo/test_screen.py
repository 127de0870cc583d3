"""The live display, from relayd's real exposition format to a line of text."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from rich.console import Console

from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.ledger import Entry
from relayd.commands.demo.observe import Relay, Snapshot, StoredRun, read_relay, read_snapshot
from relayd.commands.demo.processes.workspace import Workspace
from relayd.commands.demo.screen import Screen, sparkline, summary
from relayd.commands.demo.tree import PolicyServer
from relayd.errors import Reason
from relayd.telemetry.metrics import Metrics

NODE = SimulatedNode(
    generate_private_key(65_537, 2048), "127.0.0.1", datetime(2026, 5, 4, tzinfo=UTC)
)
RUNS = "a,2026-05-04 03:02:01+00,20260504-1,2.5\n"


def snapshot(time: float, accepted: int, rows: int, database: str = "success") -> Snapshot:
    metrics = Metrics()
    metrics.reports.labels("ok").inc(accepted)
    metrics.reports_rows.inc(rows)
    metrics.duplicates.inc(2)
    metrics.refused.labels(Reason.SIGNATURE.value).inc(3)
    metrics.spool_files.set(4)
    metrics.spool_oldest_seconds.set(1.5)
    metrics.in_flight.set(5)
    state = {"status": database} if database == "success" else {"details": database, "status": "x"}
    status = json.dumps({"data": {"database": state}}).encode()
    return read_snapshot(time, metrics.render().decode(), status, RUNS)


def text(renderable: object) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_snapshot_reads_what_relayd_exposes() -> None:
    """Every figure on the screen is read under the name that relayd gives it."""
    assert snapshot(7.0, 10, 720, "no answer") == Snapshot(
        time=7.0,
        accepted=10,
        duplicates=2,
        rows=720,
        refused={"signature": 3},
        waiting=4,
        in_flight=5,
        oldest=1.5,
        database="no answer",
        runs=(StoredRun("a", "2026-05-04 03:02:01+00", "20260504-1", 2.5),),
    )


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
    shown = text(screen.panel())
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
    rows = [" ".join(line.strip("│ ").split()) for line in text(screen.panel()).splitlines()]
    assert "relay 1 root server 3 waiting, 120 forwarded, 4 failed" in rows
    assert "relay 2 relay 1 no answer" in rows


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
