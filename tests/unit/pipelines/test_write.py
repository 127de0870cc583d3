"""The write stage: what it does while the database is away, and how it stops."""

import itertools
from collections.abc import Callable

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.errors import DatabaseError, Retry
from relayd.outputs.health import LOOK_S, Health
from relayd.outputs.results import Stored, Written
from relayd.pipelines.examine import Accepted
from relayd.pipelines.gather import BATCH
from relayd.pipelines.ticket import Behind, Finished, Settled, Ticket
from relayd.pipelines.write import ATTEMPTS_ALIKE, ATTEMPTS_TOGETHER, Writer
from relayd.spool.holds import Holds
from relayd.system.delays import DELAYS, Steps
from relayd.telemetry.metrics import Metrics
from tests.support.pipeline import (
    IDENTITY,
    FakeDatabase,
    ended,
    name_of,
    operator,
    standby,
    transient,
    verdict_of,
)
from tests.support.rows import make_rows


class Writing:
    """A writer on a fake database."""

    def __init__(self) -> None:
        self.database = FakeDatabase()
        self.metrics = Metrics()
        self.health = Health("database", self.metrics.database_up)
        self.retried = 0
        self.writer = Writer(self.database, self.health, retry_all=self.retry_all)

    def retry_all(self) -> None:
        """As `Line.rescan`."""
        self.retried += 1

    def never_again(self, error: Callable[[], DatabaseError]) -> None:
        """From now on the database is away."""
        self.database.failures = [error() for _ in range(1000)]
        self.database.probes = [error() for _ in range(1000)]

    @property
    def up(self) -> float:
        """What the gauge says of the database."""
        return float(self.metrics.database_up._value.get())


@pytest.fixture
def writing() -> Writing:
    return Writing()


LOGS = [make_rows(f"node{number}", rows=number + 1) for number in range(3)]
STORED = [Stored(1), Stored(2), Stored(3)]


async def test_outcomes_come_in_the_order_of_the_run_logs(writing: Writing) -> None:
    """One batch is one write."""
    assert await writing.writer.write(LOGS) == STORED
    assert writing.database.batches == [["node0", "node1", "node2"]]
    assert writing.up == 1


@pytest.mark.parametrize(
    ("error", "delays"),
    [
        (transient, DELAYS.database),
        (operator, DELAYS.database_operator),
        pytest.param(standby, DELAYS.database, marks=pytest.mark.fault("D22")),
    ],
)
async def test_waits_grow_by_the_kind_of_trouble(
    writing: Writing,
    autojump_clock: MockClock,
    error: Callable[[], DatabaseError],
    delays: Steps,
) -> None:
    """A server that is away is asked again soon, one that needs a hand at most once a minute.

    A standby needs one as well, but a failover may make it the primary at any moment.
    """
    attempts = len(delays.seconds) + 3
    writing.database.failures = [error() for _ in range(attempts)]
    writing.database.probes = [error() for _ in range(attempts)]
    assert await writing.writer.write(LOGS) == STORED
    times = writing.database.times
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == pytest.approx([*delays.seconds, *[delays.seconds[-1]] * 3])


async def test_wake_ends_a_wait(writing: Writing, autojump_clock: MockClock) -> None:
    """A reload that may have fixed the database is not kept waiting for a minute."""
    writing.never_again(operator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.write, LOGS)
        await trio.sleep(100)
        writing.database.failures = []
        woken = trio.current_time()
        writing.writer.wake()
    assert trio.current_time() == woken


async def test_wake_during_an_attempt_is_kept(writing: Writing, autojump_clock: MockClock) -> None:
    """An attempt that began before the world changed and fails after it is followed by another."""
    writing.database.failures = [operator()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.write, LOGS)
        while not writing.database.batches:
            await trio.lowlevel.checkpoint()
        writing.writer.wake()
    assert writing.database.times[1] == writing.database.times[0]


async def test_stop_ends_a_wait_with_the_batch_put_back(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """At the stop what waits for the database is put back at once, marked as not attempted."""
    writing.never_again(operator)
    verdicts: list[Written | Retry] = []

    async def write() -> None:
        verdicts.extend(await writing.writer.write(LOGS))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(30)
        stopped = trio.current_time()
        writing.writer.stop()
    assert verdicts == [Retry("no password", attempted=False)] * 3
    assert trio.current_time() == stopped


async def test_stopped_writer_does_not_ask_a_database_that_is_away(writing: Writing) -> None:
    """What still comes while the pipeline drains waits for no dead server, but for a good one."""
    writing.database.failures = [transient()]
    writing.writer.stop()
    assert await writing.writer.write(LOGS) == [Retry("away", attempted=False)] * 3
    assert await writing.writer.write(LOGS) == [Retry("away", attempted=False)] * 3
    assert len(writing.database.batches) == 1


async def test_stopped_writer_still_writes(writing: Writing) -> None:
    """Draining means that what was taken up is committed."""
    writing.writer.stop()
    assert await writing.writer.write(LOGS) == STORED


async def test_run_log_that_fails_alone_does_not_hold_up_the_others(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """After some attempts at a server that is well, run logs are written one by one."""
    writing.database.ill = {"node1"}
    assert await writing.writer.write(LOGS) == [Stored(1), Retry("ill"), Stored(3)]
    assert writing.database.batches == [
        *[["node0", "node1", "node2"]] * ATTEMPTS_TOGETHER,
        ["node0"],
        ["node1"],
        ["node2"],
    ]


async def test_server_that_goes_away_meanwhile_is_waited_for(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """One by one is for the faults of single run logs: for the server's the batch waits on."""
    writing.database.failures = [*[transient() for _ in range(ATTEMPTS_TOGETHER)], None]
    writing.database.failures += [transient() for _ in range(20)]
    writing.database.probes = [None, *[transient() for _ in range(20)]]
    assert await writing.writer.write(LOGS) == STORED


async def test_server_that_is_not_well_gets_whole_batches(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """While probes fail too, nothing is taken apart."""
    writing.database.failures = [transient() for _ in range(10)]
    writing.database.probes = [transient() for _ in range(10)]
    assert await writing.writer.write(LOGS) == STORED
    assert {len(batch) for batch in writing.database.batches} == {3}


async def test_trouble_is_logged_once(writing: Writing, autojump_clock: MockClock) -> None:
    """A database that is away costs one line, another trouble another, the recovery the last."""
    texts = ["away", "away", "away", "full", "full", "away"]
    writing.database.failures = [transient(text) for text in texts]
    writing.database.probes = [transient() for _ in texts]
    with capture_logs() as logs:
        await writing.writer.write(LOGS)
        await writing.writer.write(LOGS)
    logged = [
        (line["log_level"], line.get("detail")) for line in logs if line["log_level"] != "debug"
    ]
    assert logged == [("error", "away"), ("error", "full"), ("error", "away"), ("info", None)]
    assert [line["sqlstate"] for line in logs if line["log_level"] == "error"] == ["08006"] * 3


async def test_gauge_follows_the_database(writing: Writing, autojump_clock: MockClock) -> None:
    """It is down from the first failure to the next success."""
    writing.database.failures = [transient()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.write, LOGS)
        await trio.sleep(DELAYS.database.after(1) / 2)
        assert writing.up == 0
        assert writing.health.trouble is not None
    assert writing.up == 1
    assert writing.health.trouble is None


class WriteStage(Writing):
    """The write stage with its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.source, source = trio.open_memory_channel[list[Accepted]](0)
        to_dispose, self.dispose = trio.open_memory_channel[list[Settled]](0)
        self._ends = source, to_dispose

    async def run(self) -> None:
        """`Writer.run`."""
        await self.writer.run(*self._ends)


def part_of(count: int, first: int = 0) -> list[Accepted]:
    """Run logs, one of each node."""
    return [
        Accepted(
            Ticket(name_of(n, f"node{n}"), atomic=True, taken=0.0),
            IDENTITY,
            make_rows(f"node{n}", rows=1),
        )
        for n in range(first, first + count)
    ]


async def test_verdicts_go_to_their_tickets(autojump_clock: MockClock) -> None:
    """A ticket gets the verdict of its own run log."""
    stage = WriteStage()
    stage.database.ill = {"node1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.send(part_of(3))
        files = await stage.dispose.receive()
        stage.source.close()
    assert [verdict_of(file) for file in files] == [Stored(1), Retry("ill"), Stored(1)]


async def test_small_parts_share_a_transaction() -> None:
    """What waits at the door goes along, as long as the transaction is not large already."""
    stage = WriteStage()
    parts = [part_of(2), part_of(1, 2), part_of(3, 3)]
    async with trio.open_nursery() as nursery:
        for part in parts:
            nursery.start_soon(stage.source.send, part)
        await wait_all_tasks_blocked()
        nursery.start_soon(stage.run)
        files = await stage.dispose.receive()
        stage.source.close()
    assert sorted(len(batch) for batch in stage.database.batches) == [6]
    assert {file.ticket.name: verdict_of(file) for file in files} == {
        name_of(n, f"node{n}"): Stored(1) for n in range(6)
    }


async def test_full_disposal_holds_the_writer_up() -> None:
    """Nothing is written while nobody disposes of what was written before."""
    stage = WriteStage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.send(part_of(BATCH))
        nursery.start_soon(stage.source.send, part_of(BATCH))
        await wait_all_tasks_blocked()
        assert len(stage.database.batches) == 1
        await stage.dispose.receive()
        await stage.dispose.receive()
        stage.source.close()
    assert len(stage.database.batches) == 2


async def test_writer_ends_with_its_source() -> None:
    """What it took is written and passed on, then its neighbour sees the end."""
    stage = WriteStage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.send(part_of(1))
        stage.source.close()
        assert len(await stage.dispose.receive()) == 1
        await ended(stage.dispose)


async def test_writer_cancelled_in_a_wait_closes_its_channels() -> None:
    """A batch that waits for the database for ever does not outlive the pipeline."""
    stage = WriteStage()
    stage.never_again(transient)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.send(part_of(1))
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    await ended(stage.dispose)
    with pytest.raises(trio.BrokenResourceError):
        await stage.source.send(part_of(1))


async def test_a_probe_at_the_start_reports_the_database(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """Before any run log comes, the gauge says that the database is away, then that it is back."""
    writing.database.probes = [transient(), operator("no table"), None]
    with capture_logs() as logs:
        await writing.writer.probe()
    assert writing.up == 1
    assert writing.health.trouble is None
    assert [line["log_level"] for line in logs] == ["error", "error", "info"]
    assert writing.database.batches == []


async def test_a_probe_ends_at_a_stop(writing: Writing, autojump_clock: MockClock) -> None:
    """A database that never comes does not keep relayd from stopping."""
    writing.never_again(transient)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.probe)
        await trio.sleep(30)
        assert writing.up == 0
        writing.writer.stop()


async def test_an_idle_database_is_looked_at_while_somebody_reads_the_metrics(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """The gauge follows a database that stops and comes back without a run log in between."""
    await writing.writer.write(LOGS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.watch, lambda: writing.metrics.reads)
        await trio.sleep(10 * LOOK_S + 1)
        assert writing.database.idle_looks == []
        writing.never_again(transient)
        for up, probes in ((0, [transient()] * 99), (1, [])):
            writing.database.probes = list(probes)
            for _ in range(10):
                writing.metrics.render()
                await trio.sleep(LOOK_S / 5)
            assert writing.up == up
        gaps = [after - before for before, after in itertools.pairwise(writing.database.idle_looks)]
        assert gaps == pytest.approx([LOOK_S] * len(gaps))
        assert len(gaps) == 3
        nursery.cancel_scope.cancel()
    assert writing.database.batches == [["node0", "node1", "node2"]]


async def test_a_database_in_use_is_not_looked_at(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """While run logs come, they show how the database is."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.watch, lambda: writing.metrics.reads)
        for _ in range(10):
            writing.metrics.render()
            await writing.writer.write(LOGS)
            await trio.sleep(LOOK_S * 0.9)
        assert writing.database.idle_looks == []
        nursery.cancel_scope.cancel()


async def test_the_status_is_newer_than_the_gauge(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """A status request asks the database also while the gauge shows that it is away."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writing.writer.watch, lambda: writing.metrics.reads)
        writing.database.probes = [transient(), transient()]
        await wait_all_tasks_blocked()
        writing.metrics.render()
        await trio.sleep(LOOK_S + 1)
        assert writing.up == 0
        with pytest.raises(DatabaseError):
            await writing.writer.check()
        await writing.writer.check()
        assert writing.up == 1
        nursery.cancel_scope.cancel()


async def test_a_full_server_gets_no_run_logs_one_by_one(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """When the disk is full for all, the batch waits as one although the server answers."""
    full = DatabaseError("no space left", "transient", "53100")
    writing.database.failures = [full] * (2 * ATTEMPTS_TOGETHER)
    assert await writing.writer.write(LOGS) == STORED
    assert writing.database.batches == [["node0", "node1", "node2"]] * (2 * ATTEMPTS_TOGETHER + 1)


def refused_alike() -> DatabaseError:
    """Return tables that take nothing."""
    return DatabaseError("every run log: sequence", "operator", "23505", all_alike=True)


@pytest.mark.fault("F5", "F23")
async def test_tables_that_refuse_everything_are_an_operators_matter(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """The batch waits, lets another one go first at times, and all is retried with a success."""
    writing.database.failures = [refused_alike() for _ in range(ATTEMPTS_ALIKE + 1)]
    verdicts = await writing.writer.write(LOGS)
    assert verdicts == [Retry("every run log: sequence", attempted=False)] * 3
    assert writing.database.batches == [["node0", "node1", "node2"]] * ATTEMPTS_ALIKE
    assert writing.writer.waits_for_all
    assert writing.up == 0
    with pytest.raises(DatabaseError, match="every run log: sequence"):
        await writing.writer.check()
    assert writing.retried == 0
    assert await writing.writer.write(LOGS[:1]) == STORED[:1]
    assert writing.retried == 1
    await writing.writer.check()
    assert writing.up == 1


@pytest.mark.fault("F5", "F23")
async def test_run_logs_that_tables_refuse_hold_up_no_others_and_show(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """Others go in; the status says how many wait and why; one that goes in frees all."""
    writing.database.held = {"node0", "node2"}
    held = Retry("narrowed")
    with capture_logs() as logs:
        for _ in range(3):
            assert await writing.writer.write(LOGS) == [held, STORED[1], held]
    assert [line["detail"] for line in logs if line["log_level"] == "error"] == ["narrowed"]
    with pytest.raises(DatabaseError, match=r"^2 run logs wait: narrowed$"):
        await writing.writer.check()
    writing.database.held = set()
    for run_log, stored in zip(LOGS, STORED, strict=True):
        assert await writing.writer.write([run_log]) == [stored]
    assert writing.retried == 1
    await writing.writer.check()
    assert writing.up == 1


@pytest.mark.fault("F5")
async def test_a_held_run_log_that_is_never_retried_is_forgotten(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """A file that an operator removed does not keep the status from getting well."""
    writing.database.held = {"node0"}
    await writing.writer.write(LOGS)
    await trio.sleep(2 * DELAYS.file.longest + 1)
    await writing.writer.check()
    assert writing.up == 1


@pytest.mark.fault("F5")
async def test_a_run_log_that_fails_alone_shows_and_holds_up_nobody(
    writing: Writing, autojump_clock: MockClock
) -> None:
    """Whatever the server says, the others do not wait for it again, and the status shows it."""
    writing.database.ill = {"node1"}
    outcomes = await writing.writer.write(LOGS)
    assert [isinstance(outcome, Retry) for outcome in outcomes] == [False, True, False]
    with pytest.raises(DatabaseError, match=r"^1 run logs wait: "):
        await writing.writer.check()
    begun = trio.current_time()
    outcomes = await writing.writer.write(LOGS)
    assert [isinstance(outcome, Retry) for outcome in outcomes] == [False, True, False]
    assert trio.current_time() == begun


async def test_in_an_outage_a_recall_puts_back_all_and_keeps_the_order_of_each_node(
    autojump_clock: MockClock,
) -> None:
    """What follows in flight is not stored before what was put back; a recalled file holds none."""
    recalled: set[str] = set()
    stage = WriteStage()
    holds = Holds()
    stage.writer = Writer(stage.database, stage.health, holds=holds, recalled=lambda: recalled)
    stage.never_again(transient)
    first, second = part_of(2)
    later = Accepted(
        Ticket(name_of(9, "node1"), atomic=True, taken=0.0), IDENTITY, make_rows("node1", rows=1)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await stage.source.send([first, second])
        await trio.sleep(100)
        recalled.add(first.ticket.name)
        woken = trio.current_time()
        stage.writer.wake()
        assert await stage.dispose.receive() == [Behind(first.ticket), Behind(second.ticket)]
        assert trio.current_time() == woken
        recalled.clear()
        stage.database.failures = []
        await stage.source.send([later])
        assert await stage.dispose.receive() == [Behind(later.ticket)]
        for file in (second, later, first):
            await stage.source.send([file])
            (done,) = await stage.dispose.receive()
            assert isinstance(done, Finished)
        stage.source.close()
    assert holds.kept == set()


async def test_a_recall_puts_nothing_back_that_can_be_written(writing: Writing) -> None:
    """While the database is well, what is in flight goes in, and the operator finds it gone."""
    writing.writer = Writer(writing.database, writing.health, recalled=lambda: {"x"})
    assert await writing.writer.write(LOGS) == STORED
