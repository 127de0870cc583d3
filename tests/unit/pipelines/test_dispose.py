"""What becomes of a file after its verdict, on a real directory."""

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.fleet.admission import Origin
from relayd.outputs.results import Stored
from relayd.pipelines.dispose import DisposalRules, DisposeStage
from relayd.pipelines.outcomes import StoredOutcomes
from relayd.pipelines.ticket import Postponed, Settled, Ticket
from relayd.runlog.filename import queue_id
from relayd.spool.disposal import Disposal
from relayd.spool.failed.reasons import read_reason, reason_path
from relayd.spool.identity import identity_at
from relayd.spool.pending import Pending
from relayd.system.clock import WallClock
from relayd.telemetry.metrics import Metrics, Stage
from tests.support.pipeline import Verdict, name_of, settle

RULES = DisposalRules(settle_s=10.0, retention_s=7 * 86400.0)
UNFINISHED = Refused(Reason.ARCHIVE, "cut off", maybe_unfinished=True)
RUN_DATE = "2026-03-01T00:01:00+00:00"
ORIGIN = Origin("node1", RUN_DATE, "token")
NAME = name_of(1)


class Desk:
    """A disposer of a real spool.

    Attributes:
        incoming: the watched directory.
        failed: where refused files go.
        tokens: the present trust tokens of nodes; "token" for any other.
        wall: how far the wall clock was set since the start, seconds.
    """

    def __init__(self, root: Path) -> None:
        self.incoming = root / "incoming"
        self.failed = root / "failed"
        self.incoming.mkdir()
        self.failed.mkdir()
        self.pending = Pending()
        self.metrics = Metrics()
        self.disposal = Disposal(self.incoming, self.failed)
        self.tokens: dict[str, str] = {}
        self.wall = 0.0
        clock = WallClock(RULES.retention_s, wall=lambda: time.time() + self.wall)
        self.disposer = DisposeStage(
            self.disposal,
            self.pending,
            RULES,
            StoredOutcomes(self.metrics),
            lambda node_id: self.tokens.get(node_id, "token"),
            clock,
        )

    def file(
        self, verdict: Verdict, name: str = NAME, *, atomic: bool = True, age: float = 60.0
    ) -> Settled:
        """A file of some age in seconds, in flight, with its verdict."""
        path = self.incoming / name
        path.write_text("content")
        written = time.time() - age
        os.utime(path, (written, written))
        return self.claim(verdict, name, atomic=atomic)

    def claim(
        self,
        verdict: Verdict,
        name: str = NAME,
        *,
        atomic: bool = True,
        origin: Origin | None = ORIGIN,
        stage: Stage = "examine",
        seen: bool = True,
    ) -> Settled:
        """Takes a file up as it is; `seen`: it was opened."""
        assert self.pending.claim(name)
        ticket = Ticket(name, atomic, trio.current_time(), origin)
        path = self.incoming / name
        identity = identity_at(path) if seen and path.exists() else None
        return settle(ticket, identity, verdict, stage)

    def names(self) -> list[str]:
        """What is in `incoming`."""
        return sorted(path.name for path in self.incoming.iterdir())

    def refused(self) -> dict[str, str]:
        """What is in `failed`, with the reasons."""
        reasons = {}
        for path in self.failed.iterdir():
            record = read_reason(reason_path(path))
            if record is not None:
                reasons[path.name] = record.reason.value
        return reasons

    def value(self, name: str, **labels: str) -> float:
        """One value of its metrics."""
        text = self.metrics.render().decode()
        inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"rudder_relayd_{name}" + (f"{{{inner}}}" if inner else "")
        return next(
            float(line.split(" ")[1]) for line in text.splitlines() if line.split(" ")[0] == wanted
        )

    def waits(self) -> bool:
        """Whether the file waits for another attempt."""
        return NAME in self.pending and not self.pending.is_in_flight(NAME)

    async def due_in(self) -> float:
        """Seconds until the only waiting name is due."""
        assert NAME in self.pending
        return self.pending.next_due() - trio.current_time()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def logged(logs: list[Any], level: str = "warning") -> list[Any]:
    """Lines of a level."""
    return [line for line in logs if line["log_level"] == level]


FIELDS = {
    "file": NAME,
    "queue_id": queue_id(NAME),
    "node": "node1",
    "run_date": RUN_DATE,
    "component": "disposal",
}


@pytest.mark.fault("F30")
async def test_stored_file_is_removed_and_counted(desk: Desk) -> None:
    """Its rows are committed: it goes, its rows and size are counted, and one line says so."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(Stored(42))])
    assert desk.names() == []
    assert NAME not in desk.pending
    assert desk.value("reports_total", status="ok") == 1
    assert desk.value("reports_rows_total") == 42
    assert desk.value("reports_size_bytes_sum") == len("content")
    assert desk.value("reports_processing_duration_seconds_count") == 1
    assert desk.value("duplicates_total") == 0
    (line,) = logs
    assert line.pop("age") >= line.pop("took") >= 0
    assert line == {
        "component": "disposal",
        "log_level": "info",
        "event": "run log stored",
        "rows": 42,
        "bytes": len("content"),
        **desk.file(Stored(42)).ticket.describe(),
    }


async def test_processing_time_counts_from_taking_up(desk: Desk, autojump_clock: MockClock) -> None:
    """The histogram gets the time between the arrival and the disposal."""
    ticket = desk.file(Stored(1))
    await trio.sleep(7)
    await desk.disposer.dispose([ticket])
    assert desk.value("reports_processing_duration_seconds_sum") == pytest.approx(7)


async def test_duplicate_is_removed_and_logged(desk: Desk) -> None:
    """A run log that was there already counts as success and as duplicate."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(Stored(0, duplicate=True))])
    assert desk.names() == []
    assert desk.value("reports_total", status="ok") == 1
    assert desk.value("duplicates_total") == 1
    (line,) = logged(logs, "info")
    assert FIELDS.items() <= line.items()


async def test_longer_version_of_a_stored_run_is_logged(desk: Desk) -> None:
    """A duplicate with rows that are not stored is not dropped in silence."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(Stored(0, duplicate=True, missing=3))])
    (line,) = logged(logs)
    assert FIELDS.items() <= line.items()
    assert line["missing"] == 3


@pytest.mark.fault("S6")
async def test_file_that_cannot_be_removed_is_counted_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits with growing delays, is known as done, and counts once however often it is seen."""
    file = desk.file(Stored(42))
    identity = identity_at(desk.incoming / NAME)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(os, "unlink", _refuse)
        await desk.disposer.dispose([file])
        assert desk.disposal.committed.holds(NAME, identity)
        assert desk.waits()
        await desk.disposer.dispose([desk.claim(Stored(0, again=True))])
        assert desk.waits()
    assert len(logged(logs, "error")) == 1
    assert desk.names() == [NAME]
    await desk.disposer.dispose([desk.claim(Stored(0, again=True))])
    assert desk.names() == []
    assert NAME not in desk.pending
    assert desk.value("reports_total", status="ok") == 1
    assert desk.value("reports_rows_total") == 42


def _refuse(*_arguments: Any, **_options: Any) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.fault("F20")
@pytest.mark.parametrize("reason", Reason)
async def test_refused_file_is_moved_counted_and_logged(desk: Desk, reason: Reason) -> None:
    """It lies in `failed` with its reason; one line says why; two counters know.

    What is not named like a run log is none, and only counted as refused.
    """
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(Refused(reason, "because"))])
    assert desk.names() == []
    assert NAME not in desk.pending
    record = read_reason(reason_path(desk.failed / NAME))
    assert record is not None
    assert (record.name, record.reason, record.detail) == (NAME, reason, "because")
    assert (record.node, record.trust) == ("node1", "token")
    status = "invalid" if reason is Reason.UNKNOWN_NODE else "error"
    for each in ("invalid", "error"):
        expected = each == status and reason is not Reason.BAD_NAME
        assert desk.value("reports_total", status=each) == expected
    assert desk.value("refused_total", reason=reason.value) == 1
    (line,) = logs
    assert line["log_level"] == "warning"
    assert {**FIELDS, "reason": reason.value, "detail": "because"}.items() <= line.items()


async def test_refused_file_without_a_node_has_no_node_in_its_line(desk: Desk) -> None:
    """If the name gives no node, the line has file and queue id."""
    (desk.incoming / "bob.log").touch()
    file = desk.claim(Refused(Reason.BAD_NAME, "no"), "bob.log", origin=None)
    with capture_logs() as logs:
        await desk.disposer.dispose([file])
    (line,) = logs
    assert "node" not in line
    assert (line["file"], line["queue_id"]) == ("bob.log", queue_id("bob.log"))


async def test_gone_file_is_forgotten(desk: Desk) -> None:
    """Somebody else took it: its name is released, nothing is counted or logged above debug."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.claim(Gone())])
    assert NAME not in desk.pending
    assert logged(logs) == []
    assert desk.value("reports_total", status="error") == 0


@pytest.mark.parametrize("stage", ["examine", "database"])
async def test_file_put_off_waits_and_is_counted_by_stage(desk: Desk, stage: Stage) -> None:
    """It stays where it is; one line says why, one counter where."""
    (desk.incoming / NAME).touch()
    file = desk.claim(Retry("busy"), stage=stage)
    with capture_logs() as logs:
        await desk.disposer.dispose([file])
    assert desk.names() == [NAME]
    assert desk.waits()
    assert desk.value("retried_total", stage=stage) == 1
    (line,) = logs
    assert {**FIELDS, "log_level": "warning", "detail": "busy"}.items() <= line.items()


@pytest.mark.fault("S13")
async def test_young_file_written_in_place_is_held_until_it_is_settled(desk: Desk) -> None:
    """What looks cut short may grow: it is looked at again when nobody wrote to it for a while."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(UNFINISHED, atomic=False, age=2)])
    assert desk.names() == [NAME]
    assert await desk.due_in() == pytest.approx(8, abs=0.5)
    assert len(logged(logs)) == 1
    assert desk.refused() == {}


@pytest.mark.fault("S13", "S20")
@pytest.mark.parametrize(
    ("verdict", "atomic", "age"),
    [
        pytest.param(UNFINISHED, True, 2, id="renamed, so it is whole"),
        pytest.param(UNFINISHED, False, 11, id="settled"),
        pytest.param(UNFINISHED, False, -3600, id="from the future"),
        pytest.param(Refused(Reason.SIGNATURE, "forged"), False, 2, id="not a matter of length"),
    ],
)
async def test_other_files_are_not_held(
    desk: Desk, verdict: Verdict, atomic: bool, age: float
) -> None:
    """Only what was written in place, is young and looks cut short gets a second look."""
    await desk.disposer.dispose([desk.file(verdict, atomic=atomic, age=age)])
    assert desk.names() == []
    assert list(desk.refused()) == [NAME]


@pytest.mark.fault("S10")
async def test_file_that_cannot_be_processed_for_too_long_expires(desk: Desk) -> None:
    """Older than the retention and tried once more: to `failed` as expired, with the last cause."""
    with capture_logs() as logs:
        await desk.disposer.dispose([desk.file(Retry("unreadable"), age=8 * 86400)])
    assert desk.refused() == {NAME: "expired"}
    assert desk.value("refused_total", reason="expired") == 1
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "unreadable" in line["detail"]


@pytest.mark.parametrize(
    ("age", "verdict", "wall"),
    [
        pytest.param(6 * 86400, Retry("busy"), 0, id="young enough"),
        pytest.param(8 * 86400, Retry("busy", attempted=False), 0, id="not tried"),
        pytest.param(8 * 86400, Retry("busy"), 8 * 86400, id="the clock was set"),
    ],
)
async def test_other_files_do_not_expire(
    desk: Desk, age: float, verdict: Verdict, wall: float
) -> None:
    """Only what was tried in vain, by a clock that can be trusted, is given up."""
    desk.wall = wall
    await desk.disposer.dispose([desk.file(verdict, age=age)])
    assert desk.names() == [NAME]
    assert desk.waits()


async def test_file_that_was_never_seen_does_not_expire(desk: Desk) -> None:
    """Without a look at it, nobody knows how old it is."""
    (desk.incoming / NAME).touch()
    os.utime(desk.incoming / NAME, (0, 0))
    await desk.disposer.dispose([desk.claim(Retry("cannot be opened"), seen=False)])
    assert desk.waits()


@pytest.mark.fault("S3")
@pytest.mark.parametrize(
    "verdict", [Stored(1), Refused(Reason.EMPTY, "")], ids=["stored", "refused"]
)
@pytest.mark.parametrize("announced", [True, False])
async def test_newer_file_of_the_name_is_looked_at(
    desk: Desk, verdict: Verdict, announced: bool
) -> None:
    """It stays, and is due soon, whether its event came already or not."""
    ticket = desk.file(verdict)
    newer = desk.incoming / ".new"
    newer.write_text("newer content")
    newer.rename(desk.incoming / NAME)
    if announced:
        assert not desk.pending.claim(NAME)
    await desk.disposer.dispose([ticket])
    assert (desk.incoming / NAME).read_text() == "newer content"
    assert desk.pending.in_flight == 0
    assert await desk.due_in() <= 1.25
    assert desk.refused() == {}


@pytest.mark.fault("S5")
async def test_file_that_cannot_be_moved_is_put_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`failed` is no use: that file waits, one line says so, the others of its batch go on."""
    batch = [
        desk.file(Refused(Reason.EMPTY, "")),
        desk.file(Stored(1), name_of(2)),
        desk.file(Gone(), name_of(3)),
    ]
    desk.failed.rmdir()
    desk.failed.write_text("not a directory")
    with capture_logs() as logs:
        await desk.disposer.dispose(batch)
    assert NAME in desk.names()
    assert name_of(2) not in desk.names()
    assert desk.waits()
    assert desk.pending.in_flight == 0
    assert desk.value("reports_total", status="error") == 0
    (line,) = logged(logs)
    assert line["file"] == NAME
    assert "cannot be moved to failed" in line["detail"]


async def test_expired_file_that_cannot_be_moved_keeps_its_wait(desk: Desk) -> None:
    """The wait that an upstream asked for lasts, also when `failed` cannot take the file."""
    file = desk.file(Retry("answered 503"), age=8 * 86400)
    assert isinstance(file, Postponed)
    desk.failed.rmdir()
    desk.failed.write_text("not a directory")
    await desk.disposer.dispose([msgspec.structs.replace(file, wait=300.0)])
    assert desk.names() == [NAME]
    assert await desk.due_in() >= 299


@pytest.mark.fault("G3", "C21")
async def test_verdict_by_former_nodes_is_not_carried_out(desk: Desk) -> None:
    """The node became known between name and disposal: the file is examined again, not refused."""
    unknown = desk.file(Refused(Reason.UNKNOWN_NODE, "who?"))
    name = name_of(2, "other")
    (desk.incoming / name).touch()
    origin = Origin("other", RUN_DATE, "token")
    other = desk.claim(Refused(Reason.UNKNOWN_NODE, "who?"), name, origin=origin)
    desk.tokens["node1"] = "now it is known"
    with capture_logs() as logs:
        await desk.disposer.dispose([unknown, other])
    assert desk.names() == [NAME]
    assert desk.refused() == {name_of(2, "other"): "unknown_node"}
    assert await desk.due_in() <= 1.25
    assert len(logged(logs)) == 2


@pytest.mark.parametrize("verdict", [Stored(1), Refused(Reason.EMPTY, ""), Gone(), Retry("")])
async def test_every_name_is_released_or_put_back(desk: Desk, verdict: Verdict) -> None:
    """Whatever the verdict, and whether the file is still there or not, no name stays in flight."""
    batch = [desk.file(verdict, name_of(number)) for number in range(4)]
    (desk.incoming / name_of(1)).unlink()
    (desk.incoming / name_of(2)).unlink()
    (desk.incoming / name_of(2)).mkdir()
    await desk.disposer.dispose(batch)
    assert desk.pending.in_flight == 0


async def test_disposal_ends_with_its_source(desk: Desk) -> None:
    """Batch after batch, then the end."""
    send, receive = trio.open_memory_channel[list[Settled]](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.disposer.run, receive)
        await send.send([desk.file(Stored(1))])
        await send.send([desk.file(Stored(1), name_of(2))])
        send.close()
    assert desk.names() == []


async def test_disposal_takes_one_batch_at_a_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While files are moved the next batch waits with its sender."""
    go_on = trio.Event()
    real = desk.disposal.remove

    async def slow(*files: Any) -> Any:
        await go_on.wait()
        return await real(*files)

    monkeypatch.setattr(desk.disposal, "remove", slow)
    send, receive = trio.open_memory_channel[list[Settled]](0)
    sent: list[int] = []

    async def feed() -> None:
        with send:
            for number in range(3):
                await send.send([desk.file(Stored(1), name_of(number))])
                sent.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.disposer.run, receive)
        nursery.start_soon(feed)
        await wait_all_tasks_blocked()
        assert sent == [0]
        go_on.set()
    assert desk.names() == []


async def test_cancelled_disposal_leaves_nothing_half_done(desk: Desk) -> None:
    """A batch that was begun is moved whole, each file with its reason, or not at all."""
    batch = [desk.file(Refused(Reason.EMPTY, ""), name_of(n)) for n in range(50)]
    with trio.move_on_after(0.001):
        await desk.disposer.dispose(batch)
    moved = set(desk.refused())
    assert moved in (set(), {file.ticket.name for file in batch})
    assert len(desk.names()) + len(moved) == 50
    assert not [p.name for p in desk.failed.iterdir() if p.name.startswith(".")]
