"""The stages of the pipeline but the writer, and the wiring between them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.fleet.nodes import Nodes
from relayd.outputs.results import Stored
from relayd.pipelines.examine import (
    ARRIVALS,
    ToWrite,
    Writer,
    admit,
    run_examine,
    run_reporting,
)
from relayd.pipelines.gather import BATCH, LINGER_S, QUIET_S, run_gather
from relayd.pipelines.ticket import Ticket
from relayd.pipelines.workers.job import Job
from relayd.runlog.model import RunLog
from relayd.spool.watching.watcher import Arrival
from relayd.telemetry.metrics import Metrics
from tests.support.pipeline import (
    IDENTITY,
    FakeDatabase,
    FakeExaminer,
    arrivals,
    ended,
    make_nodes,
    name_of,
)
from tests.support.rows import make_rows


class Stage:
    """The examine stage with its three channels, all without a buffer.

    Attributes:
        write: what it found good.
        dispose: what is disposed of without being written.
    """

    def __init__(self, examiner: FakeExaminer, nodes: Nodes) -> None:
        self.examiner = examiner
        self.nodes = nodes
        self.committed: set[str] = set()
        self.batches, self._source = trio.open_memory_channel[list[Arrival]](0)
        self._to_write, self.write = trio.open_memory_channel[ToWrite](0)
        self._to_dispose, self.dispose = trio.open_memory_channel[list[Ticket]](0)

    async def run(self) -> None:
        """`run_examine`."""
        await run_examine(
            self.examiner,
            lambda: self.nodes,
            lambda name, identity: name in self.committed and identity == IDENTITY,
            self._source,
            self._to_write,
            self._to_dispose,
        )


@asynccontextmanager
async def open_stage(at_once: int = BATCH, nodes: Nodes | None = None) -> AsyncIterator[Stage]:
    stage = Stage(FakeExaminer(at_once), nodes or make_nodes("node1"))
    with trio.fail_after(10), stage.batches, stage.write, stage.dispose:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.run)
            yield stage
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bob.log", Reason.BAD_NAME),
        (name_of(0, "stranger"), Reason.UNKNOWN_NODE),
        (name_of(0, "bare"), Reason.NO_CERTIFICATE),
    ],
)
async def test_file_refused_by_its_name_is_never_opened(name: str, reason: Reason) -> None:
    """What the name alone decides goes to disposal without an examination; good ones follow."""
    async with open_stage(nodes=make_nodes("node1", others=["bare"])) as stage:
        await stage.batches.send([Arrival(name, atomic=True), *arrivals(2)])
        (ticket,) = await stage.dispose.receive()
        assert isinstance(ticket.verdict, Refused)
        assert (ticket.name, ticket.verdict.reason) == (name, reason)
        assert len((await stage.write.receive()).tickets) == 2
    assert stage.examiner.calls == [[name_of(0), name_of(1)]]


def test_admit_tells_whose_file_it_is() -> None:
    """The ticket gets node, date and a token of what was known then; the job the certificates."""
    ticket = Ticket(Arrival(name_of(7), atomic=True), 0.0)
    nodes = make_nodes("node1", "node2")
    job = admit(ticket, nodes)
    assert job == Job(name_of(7), "", "node1", nodes.certificates("node1"))
    assert ticket.node_id == "node1"
    assert ticket.run_date == "2026-03-01T00:07:00+00:00"
    assert ticket.trust == nodes.trust_token("node1") != nodes.trust_token("node2")


async def test_verdicts_stay_with_their_files() -> None:
    """Good, bad, gone and done files of one batch part ways, each with its own verdict."""
    async with open_stage() as stage:
        results = stage.examiner.results
        results[name_of(1)] = Refused(Reason.SIGNATURE, "bad")
        results[name_of(3)] = Gone()
        results[name_of(5)] = Retry("busy")
        stage.committed = {name_of(6)}
        await stage.batches.send(arrivals(8))
        others = await stage.dispose.receive()
        good = await stage.write.receive()
    assert {ticket.name: ticket.verdict for ticket in others} == {
        name_of(1): Refused(Reason.SIGNATURE, "bad"),
        name_of(3): Gone(),
        name_of(5): Retry("busy"),
        name_of(6): Stored(0, again=True),
    }
    assert [ticket.name for ticket in good.tickets] == [name_of(n) for n in (0, 2, 4, 7)]
    assert len(good.run_logs) == 4
    assert {ticket.identity for ticket in good.tickets} == {IDENTITY}


async def test_call_that_ends_early_is_continued() -> None:
    """Fewer results than files: the rest is asked for again, nothing is skipped or doubled."""
    async with open_stage(at_once=3) as stage:
        stage.examiner.results[name_of(4)] = Refused(Reason.EMPTY, "")
        await stage.batches.send(arrivals(8))
        seen: list[str] = []
        for channel in (stage.write, stage.dispose, stage.write, stage.write):
            part = await channel.receive()
            seen += [t.name for t in (part.tickets if isinstance(part, ToWrite) else part)]
    assert sorted(seen) == [name_of(n) for n in range(8)]
    assert [len(call) for call in stage.examiner.calls] == [8, 5, 2]


async def test_full_writer_holds_the_examination_up() -> None:
    """With nobody who writes, a lane finishes one batch and begins no other."""
    async with open_stage() as stage, trio.open_nursery() as nursery:
        await stage.batches.send(arrivals(3))
        nursery.start_soon(stage.batches.send, arrivals(5))
        await wait_all_tasks_blocked()
        assert len(stage.examiner.calls) == 1
        assert len(nursery.child_tasks) == 1
        await stage.write.receive()
        await stage.write.receive()
        assert len(stage.examiner.calls) == 2


async def test_examination_ends_with_its_source() -> None:
    """All that was taken up is passed on before the stage closes both channels behind it."""
    async with open_stage() as stage:
        await stage.batches.send(arrivals(2))
        stage.batches.close()
        assert len((await stage.write.receive()).tickets) == 2
        await ended(stage.write, stage.dispose)


@pytest.mark.parametrize("where", ["examine", "write", "dispose"])
async def test_examination_cancelled_anywhere_closes_its_channels(where: str) -> None:
    """Its neighbours see the end, wherever it was waiting; it leaves nothing to be collected."""
    async with open_stage() as stage:
        async with trio.open_nursery() as nursery:
            other = Stage(FakeExaminer(), make_nodes("node1"))
            nursery.start_soon(other.run)
            if where == "examine":
                other.examiner.go_on = trio.Event()
            elif where == "dispose":
                other.examiner.results[name_of(0)] = Refused(Reason.EMPTY, "")
            await other.batches.send(arrivals(1))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await ended(other.write, other.dispose)
        with pytest.raises(trio.BrokenResourceError):
            await other.batches.send([])
        assert stage.examiner.calls == []


async def test_bug_in_the_examination_ends_the_stage() -> None:
    """What is not foreseen is not swallowed."""
    stage = Stage(FakeExaminer(), make_nodes("node1"))
    stage.examiner.error = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.run)
            await stage.batches.send(arrivals(1))
    await ended(stage.write, stage.dispose)


async def test_flaws_of_a_run_log_are_told_in_one_line() -> None:
    """The warnings of a good run log cost one line with node, file and their number."""
    run_log = make_rows(rows=1)
    values = {name: getattr(run_log, name) for name in run_log.__struct_fields__}
    flawed = RunLog(**{**values, "warnings": ("first", "second", "third")})
    with capture_logs() as logs:
        async with open_stage() as stage:
            stage.examiner.results[name_of(0)] = flawed
            await stage.batches.send(arrivals(1))
            await stage.write.receive()
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert (line["node"], line["file"], line["flaws"]) == ("node1", name_of(0), 3)
    assert line["detail"] == "first"


class Gatherer:
    """The gather stage between two channels."""

    def __init__(self, room: int = ARRIVALS) -> None:
        self.arrivals, source = trio.open_memory_channel[int](room)
        to, self.batches = trio.open_memory_channel[list[int]](0)
        self._ends = source, to

    async def run(self) -> None:
        """`run_gather`."""
        await run_gather(*self._ends)


async def test_lone_file_does_not_wait(autojump_clock: MockClock) -> None:
    """After a quiet second a file makes a batch of its own, at once."""
    stage = Gatherer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        for number in range(3):
            await trio.sleep(QUIET_S + 0.1)
            before = trio.current_time()
            await stage.arrivals.send(number)
            assert await stage.batches.receive() == [number]
            assert trio.current_time() == before
        stage.arrivals.close()


async def test_trickle_is_gathered(autojump_clock: MockClock) -> None:
    """Files that come steadily share batches: each waits no longer than the linger."""
    stage = Gatherer()
    sent: dict[int, float] = {}
    waits: list[float] = []
    sizes: list[int] = []

    async def send() -> None:
        with stage.arrivals:
            for number in range(60):
                sent[number] = trio.current_time()
                await stage.arrivals.send(number)
                await trio.sleep(LINGER_S / 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        nursery.start_soon(send)
        async for batch in stage.batches:
            sizes.append(len(batch))
            waits += [trio.current_time() - sent[number] for number in batch]
    assert sum(sizes) == 60
    assert len(sizes) <= 8
    assert max(waits) <= LINGER_S + 1e-6


async def test_batches_are_bounded(autojump_clock: MockClock) -> None:
    """A backlog is cut into full batches, in order, and the last one may be smaller."""
    stage = Gatherer(3 * BATCH)
    for number in range(2 * BATCH + 5):
        stage.arrivals.send_nowait(number)
    stage.arrivals.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        batches = [batch async for batch in stage.batches]
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 5]
    assert [number for batch in batches for number in batch] == list(range(2 * BATCH + 5))


class Pipeline:
    """All stages wired as in the service, with a watcher and a disposal that a test controls."""

    def __init__(self, lanes: int = 2) -> None:
        self.lanes = lanes
        self.examiner = FakeExaminer()
        self.database = FakeDatabase()
        self.metrics = Metrics()
        self.writer = Writer(self.database, self.metrics)  # type: ignore[arg-type]
        self.source, self._feed = trio.open_memory_channel[Arrival](0)
        self.disposed: list[str] = []
        self.sent = 0
        self.may_dispose = trio.Event()
        self.may_dispose.set()
        self.ends: list[str] = []

    async def watch(self, to: trio.MemorySendChannel[Arrival]) -> None:
        """Passes on what the test sends."""
        with to:
            async for arrival in self._feed:
                await to.send(arrival)
                self.sent += 1
        self.ends.append("watch")

    async def examine(self, *ends: Any) -> None:
        """`run_examine`."""
        nodes = make_nodes("node1")
        await run_examine(self.examiner, lambda: nodes, lambda _name, _identity: False, *ends)
        self.ends.append("examine")

    async def write(self, *ends: Any) -> None:
        """`Writer.run`."""
        await self.writer.run(*ends)
        self.ends.append("write")

    async def dispose(self, source: trio.MemoryReceiveChannel[list[Ticket]]) -> None:
        """Notes what arrives, when it may."""
        with source:
            async for tickets in source:
                await self.may_dispose.wait()
                self.disposed += [ticket.name for ticket in tickets]
        self.ends.append("dispose")

    async def run(self) -> None:
        """`run_reporting`."""
        await run_reporting(
            self.watch, self.examine, self.lanes, self.write, self.dispose, self.metrics
        )


async def test_pipeline_drains_in_the_order_of_its_stages(autojump_clock: MockClock) -> None:
    """When the watcher ends, all that it took up gets through, then stage after stage ends."""
    pipeline = Pipeline()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        for arrival in arrivals(700):
            await pipeline.source.send(arrival)
        pipeline.source.close()
    assert sorted(pipeline.disposed) == sorted(name_of(n) for n in range(700))
    assert pipeline.ends == ["watch", "examine", "examine", "write", "dispose"]


async def test_blocked_disposal_stops_the_watcher_in_the_end() -> None:
    """Memory does not grow with the backlog: with the last stage stuck, names stay in the spool."""
    pipeline = Pipeline()
    pipeline.may_dispose = trio.Event()

    async def feed() -> None:
        for arrival in arrivals(5000):
            await pipeline.source.send(arrival)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        nursery.start_soon(feed)
        await wait_all_tasks_blocked(0.05)
        stuck = pipeline.sent
        # The channel; a batch in the gatherer, in each lane, with the writer and the disposal.
        assert stuck <= ARRIVALS + BATCH * (1 + pipeline.lanes) + 2 * 2 * BATCH
        gauge = pipeline.metrics.queue.labels("examine")._child_samples()
        assert next(iter(gauge)).value == ARRIVALS
        nursery.cancel_scope.cancel()
    assert pipeline.disposed == []


@pytest.mark.parametrize("stage", ["watch", "examine", "write", "dispose"])
async def test_bug_in_a_stage_ends_the_pipeline(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage goes on beside a dead one: the error comes out, all others are cancelled."""
    pipeline = Pipeline(lanes=1)

    async def broken(*_ends: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, stage, broken)
    with trio.fail_after(10), pytest.RaisesGroup(ZeroDivisionError):
        await pipeline.run()
