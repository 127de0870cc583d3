"""The gather stage: batches by size and by time."""

import trio
from trio.testing import MockClock

from relayd.pipelines.gather import BATCH, LINGER_S, QUIET_S, run_gather
from relayd.pipelines.line import ARRIVALS


class Gatherer:
    """The gather stage between two channels."""

    def __init__(self, size: int = ARRIVALS) -> None:
        self.arrivals, source = trio.open_memory_channel[int](size)
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
