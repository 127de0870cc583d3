"""The examine stage: what is refused by its name, what is examined, what is passed on where."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from relayd.errors import Gone, Reason, Refused, Retry
from relayd.fleet.admission import Origin
from relayd.fleet.nodes import Nodes
from relayd.outputs.results import Stored
from relayd.pipelines.examine import Accepted, ExamineStage
from relayd.pipelines.gather import BATCH
from relayd.pipelines.ticket import Failed, Settled
from relayd.runlog.model import RunLog
from relayd.spool.watching.watcher import Arrival
from tests.support.pipeline import (
    IDENTITY,
    FakeExaminer,
    arrivals,
    ended,
    make_nodes,
    name_of,
    verdict_of,
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
        self._to_write, self.write = trio.open_memory_channel[list[Accepted]](0)
        self._to_dispose, self.dispose = trio.open_memory_channel[list[Settled]](0)

    async def run(self) -> None:
        """`ExamineStage.run`."""
        stage = ExamineStage(
            self.examiner,
            lambda: self.nodes,
            lambda name, identity: name in self.committed and identity == IDENTITY,
        )
        await stage.run(self._source, self._to_write, self._to_dispose)


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
        (file,) = await stage.dispose.receive()
        assert isinstance(file, Failed)
        assert (file.ticket.name, file.refused.reason) == (name, reason)
        assert len(await stage.write.receive()) == 2
    assert stage.examiner.calls == [[name_of(0), name_of(1)]]


async def test_files_carry_what_their_names_say() -> None:
    """A ticket has node, date and a token of the nodes in force; a bad name gives none."""
    nodes = make_nodes("node1", "node2")
    async with open_stage(nodes=nodes) as stage:
        await stage.batches.send([Arrival("bob.log", atomic=True), *arrivals(1)])
        (refused,) = await stage.dispose.receive()
        (accepted,) = await stage.write.receive()
    assert refused.ticket.origin is None
    origin = Origin("node1", "2026-03-01T00:00:00+00:00", nodes.trust_token("node1"))
    assert accepted.ticket.origin == origin


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
    assert {file.ticket.name: verdict_of(file) for file in others} == {
        name_of(1): Refused(Reason.SIGNATURE, "bad"),
        name_of(3): Gone(),
        name_of(5): Retry("busy"),
        name_of(6): Stored(0, again=True),
    }
    assert [file.ticket.name for file in good] == [name_of(n) for n in (0, 2, 4, 7)]
    assert {file.identity for file in good} == {IDENTITY}


async def test_call_that_ends_early_is_continued() -> None:
    """Fewer results than files: the rest is asked for again, nothing is skipped or doubled."""
    async with open_stage(at_once=3) as stage:
        stage.examiner.results[name_of(4)] = Refused(Reason.EMPTY, "")
        await stage.batches.send(arrivals(8))
        seen: list[str] = []
        for channel in (stage.write, stage.dispose, stage.write, stage.write):
            part: Sequence[Accepted | Settled] = await channel.receive()
            seen += [file.ticket.name for file in part]
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
        assert len(await stage.write.receive()) == 2
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


async def test_flaws_of_a_run_log_are_logged_in_one_line() -> None:
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
