"""The stages of run logs, wired: how they drain, how they hold each other up, how they end."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.outputs.health import Health
from relayd.pipelines.examine import ExamineStage
from relayd.pipelines.gather import BATCH
from relayd.pipelines.line import ARRIVALS
from relayd.pipelines.reporting import ReportingStages
from relayd.pipelines.ticket import Settled
from relayd.pipelines.write import Writer
from relayd.spool.watching.watcher import Arrival
from relayd.telemetry.metrics import Metrics
from tests.support.pipeline import FakeDatabase, FakeExaminer, arrivals, make_nodes, name_of


class Examine(ExamineStage):
    """Notes the end of each lane."""

    ends: list[str]

    async def run(self, *ends: Any) -> None:
        """As it is."""
        await super().run(*ends)
        self.ends.append("examine")


class Write(Writer):
    """Notes its end."""

    ends: list[str]

    async def run(self, *ends: Any) -> None:
        """As it is."""
        await super().run(*ends)
        self.ends.append("write")


class Pipeline:
    """All stages wired as in the daemon, with a watcher and a disposal that a test controls."""

    def __init__(self, lanes: int = 2) -> None:
        self.lanes = lanes
        self.examiner = FakeExaminer()
        self.database = FakeDatabase()
        self.metrics = Metrics()
        nodes = make_nodes("node1")
        self.examine = Examine(self.examiner, lambda: nodes, lambda _name, _identity: False)
        self.writer = Write(self.database, Health("database", self.metrics.database_up))
        self.source, self._feed = trio.open_memory_channel[Arrival](0)
        self.disposed: list[str] = []
        self.sent = 0
        self.may_dispose = trio.Event()
        self.may_dispose.set()
        self.ends: list[str] = []
        self.examine.ends = self.writer.ends = self.ends

    async def watch(self, to: trio.MemorySendChannel[Arrival]) -> None:
        """Passes on what the test sends."""
        with to:
            async for arrival in self._feed:
                await to.send(arrival)
                self.sent += 1
        self.ends.append("watch")

    async def dispose(self, source: trio.MemoryReceiveChannel[list[Settled]]) -> None:
        """Notes what arrives, when it may."""
        with source:
            async for files in source:
                await self.may_dispose.wait()
                self.disposed += [file.ticket.name for file in files]
        self.ends.append("dispose")

    async def run(self) -> None:
        """As `Line.run` does it."""
        stages = ReportingStages(self.examine, self.lanes, self.writer, self.metrics)
        arrivals_in, waiting = trio.open_memory_channel[Arrival](ARRIVALS)
        settled_in, settled = trio.open_memory_channel[list[Settled]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch, arrivals_in)
            nursery.start_soon(stages, waiting, settled_in)
            nursery.start_soon(self.dispose, settled)


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


@pytest.mark.parametrize("stage", ["watch", "examine", "writer", "dispose"])
async def test_bug_in_a_stage_ends_the_pipeline(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage survives a dead one: the error comes out, all others are cancelled."""
    pipeline = Pipeline(lanes=1)

    async def broken(*_ends: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    owner: object = pipeline if stage in {"watch", "dispose"} else getattr(pipeline, stage)
    monkeypatch.setattr(owner, stage if owner is pipeline else "run", broken)
    with trio.fail_after(10), pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await pipeline.run()
