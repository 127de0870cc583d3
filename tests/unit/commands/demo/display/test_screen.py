"""The live display, from relayd's real exposition format to a line of text."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from rich.console import Console, RenderableType

from relayd.commands.demo.display.screen import Screen, sparkline
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.observe import (
    Counters,
    Relay,
    Snapshot,
    Stored,
    StoredRun,
    add,
    read_counters,
    read_relay,
    read_stored,
)
from relayd.commands.demo.processes.workspace import Workspace
from relayd.commands.demo.remote_runs import RemoteRunClient
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
    metrics.held_missing.inc(3)
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
    assert counters("no answer") == Counters(2, 1.5, "no answer", restored=3)


def test_counters_of_several_servers_are_added() -> None:
    """One that does not answer makes the sum unknown; a database in trouble is not hidden."""
    both = Counters(4, 1.5, "no answer", restored=6)
    assert add([counters(), counters("no answer")]) == both
    assert add([counters(), None]) is None


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
    assert "relay 1 (127.0.0.1) → root server: 3 waiting, 120 forwarded, 4 failed" in rows
    assert "relay 2 (127.0.0.1) → relay 1: no answer" in rows
    assert "relay 2: no answer" in text(screen, width=40)


STORY = "The database is stopped. Run logs wait in the spool; nothing of them is lost at the end."
OUTPUT = "node-007.demo.example: agent run started by relay 2"


def busy_screen(root: Path, relays: int, reasons: int = len(Reason)) -> Screen:
    """Return a screen with everything that can be shown, in its longest form."""
    server = policy_server(root, "root server", None)
    servers = [policy_server(root, f"relay {number}", server) for number in range(relays)]
    runs = RemoteRunClient(27_152, 60) if relays else None
    if runs:
        runs.output.append(OUTPUT)
    screen = Screen("relayd demo: 60 nodes", {}, servers, runs, STORY)
    full = replace(
        snapshot(1.0, 12_345, 888_840, "[Errno 111] Connect call failed ('127.0.0.1', 16054)"),
        stored=Stored(12_345, 888_840, (RUN,) * 8),
        refused={reason.value: 1000 for reason in [*Reason][:reasons]},
        relays=(Relay(3, 120_000, 4),) * relays,
    )
    screen.add(full, sent=99_999)
    return screen


def words(shown: str) -> str:
    """Return what is shown without borders and line breaks."""
    lines = (line.strip("│ ").removesuffix("\\") for line in shown.splitlines())
    return " ".join(" ".join(lines).split())


def below(lines: list[str]) -> str:
    """Return what is below the panel."""
    return "\n".join(line for line in lines if not re.match("[│╭╰]", line))


@pytest.mark.fault("F48")
@pytest.mark.parametrize("relays", [0, 2, 20])
@pytest.mark.parametrize(
    ("width", "height"),
    [(200, 60), (132, 43), (80, 24), (60, 20), (40, 24), (40, 15), (20, 6), (5, 3)],
)
def test_display_fits_its_terminal(tmp_path: Path, relays: int, width: int, height: int) -> None:
    """Whatever the size, no line is too long, none is cut off below, and the state comes first."""
    lines = text(busy_screen(tmp_path, relays), width, height).splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    shown = "\n".join(lines)
    if width > 5:
        assert all(part in shown for part in ("The database", "stored", "12,345", "waiting"))
        assert re.search("^│ database", shown, re.MULTILINE)
    if height >= 15:
        assert all(part in shown for part in ("sent", "99,999", "refused", "nothing of"))
    assert text(busy_screen(tmp_path, relays), width, height + 1).count("\n") >= len(lines)


@pytest.mark.fault("F48")
@pytest.mark.parametrize("width", [30, 40, 61, 80, 200])
@pytest.mark.parametrize("relays", [0, 2, 20])
def test_nothing_is_left_out_while_rows_are_free(tmp_path: Path, relays: int, width: int) -> None:
    """With enough rows every text is shown to its end, in any width; with fewer, no row is free."""
    screen = busy_screen(tmp_path, relays)
    whole = text(screen, width, 60).splitlines()
    assert len(whole) < 60
    shown = words("\n".join(whole))
    command = below(whole)
    for part in (STORY, "Connect call failed ('127.0.0.1', 16054)", "last runs", "2.5 s"):
        assert part in shown
    for reason in Reason:
        assert f"{reason} 1,000" in shown
    if relays:
        assert OUTPUT in shown
        assert "120000 forwarded" in shown if relays == 2 else "20 relays" in shown
        assert screen.remote_runs is not None
        assert screen.remote_runs.curl == command.replace("\\\n", "")
    for height in range(8, len(whole)):
        fewer = text(screen, width, height)
        # The runs need three rows, the command as many as it has lines: neither is shown in part.
        assert height - 4 < fewer.count("\n") <= height
        assert below(fewer.splitlines()) in {"", command}
        assert ("last runs" in fewer) == (" 2.5 s" in fewer)


@pytest.mark.fault("F48")
def test_what_matters_least_is_left_out_first(tmp_path: Path) -> None:
    """With fewer rows the last runs go first, then the command, remote runs, reasons, relays."""
    screen = busy_screen(tmp_path, relays=2)
    parts = ("last runs", OUTPUT, "curl", "remote runs", "archive", "relay 1", "replays", "sent")
    tallest = {
        part: max(height for height in range(6, 50) if part not in text(screen, 100, height))
        for part in parts[:-1]
    }
    assert sorted(tallest.values(), reverse=True) == list(tallest.values())


@pytest.mark.fault("F48")
def test_the_newest_end_of_the_bars_is_shown() -> None:
    """In a terminal that is too narrow for all bars, the oldest are left out."""
    screen = Screen("demo", {})
    for second in range(80):
        # Almost nothing for a minute, then a burst in the last second.
        screen.add(snapshot(float(second), 10_000 if second == 79 else second, 0), sent=0)
    (line,) = (
        line for line in text(screen, 80).splitlines() if "run logs " in line and "▁" in line
    )
    bars = line.strip("│ ").split()[-1]
    assert bars.endswith("▁█")
    assert len(bars) == 76 - len("run logs    2000.0/s  ") + 1


def test_what_stops_replaces_the_story() -> None:
    """Once the demo is stopping, the screen says so, whatever the story goes on to say."""
    screen = Screen("demo", {}, story="relayd is back", stopping="Stopping: wait")
    screen.add(snapshot(1.0, 10, 720), sent=20)
    assert "Stopping: wait" in text(screen)
    assert "relayd is back" not in text(screen)


@pytest.mark.fault("F49")
def test_display_goes_on_while_relayd_or_the_database_is_away() -> None:
    """What relayd does not answer is said; its counters go on where they were when it is back."""
    screen = Screen("demo", {}, story="relayd is killed")
    screen.add(snapshot(1.0, 10, 720), sent=20)
    screen.add(replace(snapshot(2.0, 10, 720), counters=None), sent=30, kept=9)
    assert "database relayd does not answer" in screen.line()
    assert "sent 30 (9 kept)" in screen.line()
    assert "9 kept by their nodes until the next run" in text(screen)
    assert "relayd is killed" in text(screen)
    screen.add(snapshot(3.0, 10, 720), sent=30)
    assert "replays 4" in screen.line()
    assert "kept" not in screen.line() + text(screen)


def policy_server(root: Path, title: str, parent: PolicyServer | None) -> PolicyServer:
    """Return a policy server of which only the position in the tree matters."""
    return PolicyServer(title, NODE, Workspace(root), 3030, 443, parent, "")


def test_rows_that_a_failover_takes_back_are_no_speed() -> None:
    """The display goes on while the database has fewer rows than before."""
    screen = Screen("demo", {})
    for minute, run_logs in enumerate([500, 510, 5, 6]):
        screen.add(snapshot(60.0 * minute, run_logs, 72 * run_logs), sent=600)
        assert "-" not in screen.line().partition("queued")[0]
        assert "run logs" in text(screen)


def test_sparkline_scales_to_its_highest_value() -> None:
    """The highest value is the highest bar; nothing is drawn if all values are 0."""
    assert sparkline([0, 3, 7, 14]) == "▁▃▅█"
    assert sparkline([0, 0]) == ""
    assert sparkline([]) == ""
