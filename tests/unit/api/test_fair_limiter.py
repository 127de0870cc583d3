"""A bound on long requests, with a queue in which clients take turns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from relayd.api.fair_limiter import Bounds, FairLimiter

pytestmark = pytest.mark.fault("F58")


class Requests:
    """Requests that last until their end is requested."""

    def __init__(self, limiter: FairLimiter, nursery: trio.Nursery) -> None:
        self.limiter = limiter
        self.nursery = nursery
        self.admitted: list[str] = []
        self.rejected: list[str] = []
        self.ends: dict[str, trio.Event] = {}

    async def begin(self, *names: str) -> None:
        """Begin requests, named by their client and a digit, in this order."""
        for name in names:
            self.nursery.start_soon(self._request, name)
            await trio.testing.wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        """End a request that was admitted."""
        self.ends[name].set()
        await trio.testing.wait_all_tasks_blocked()

    async def _request(self, name: str) -> None:
        async with self.limiter.admit(name[0]) as admitted:
            if not admitted:
                self.rejected.append(name)
                return
            self.admitted.append(name)
            self.ends[name] = trio.Event()
            await self.ends[name].wait()


@asynccontextmanager
async def requests(bounds: Bounds) -> AsyncIterator[Requests]:
    """Begin with a new limiter; everything is cancelled at the end, and nothing is left of it."""
    limiter = FairLimiter(bounds)
    async with trio.open_nursery() as nursery:
        yield Requests(limiter, nursery)
        nursery.cancel_scope.cancel()
    assert limiter.waiting == 0
    async with limiter.admit("z") as admitted:
        assert admitted


async def test_clients_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    """Requests beyond either bound wait; one that ends makes way for the client in turn."""
    async with requests(Bounds(total=3, each=2, waiting=10)) as all_of_them:
        await all_of_them.begin("a1", "a2", "a3", "a4", "b1", "b2", "c1")
        assert all_of_them.admitted == ["a1", "a2", "b1"]
        await all_of_them.end("a1")
        await all_of_them.end("a2")
        await all_of_them.end("b1")
        assert all_of_them.admitted[3:] == ["a3", "b2", "c1"]
        await all_of_them.end("b2")
        assert all_of_them.admitted[6:] == ["a4"]
        assert all_of_them.rejected == []


async def test_a_client_does_not_fill_the_queue(autojump_clock: trio.testing.MockClock) -> None:
    """Where the queue is full, the client with most requests in it loses its last one."""
    async with requests(Bounds(total=1, each=1, waiting=3)) as all_of_them:
        await all_of_them.begin("a1", "a2", "a3", "a4", "a5", "b1", "c1", "b2")
        assert all_of_them.rejected[:3] == ["a5", "a4", "a3"]
        assert all_of_them.limiter.waiting == 3


async def test_waiting_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    """A request that waited too long is rejected; one that is cancelled gives its place back."""
    async with requests(Bounds(total=1, each=1, waiting=9, wait_s=5)) as all_of_them:
        await all_of_them.begin("a1", "a2")
        start = trio.current_time()
        await trio.sleep(6)
        assert all_of_them.rejected == ["a2"]
        assert trio.current_time() == start + 6
        with trio.move_on_after(1):
            async with all_of_them.limiter.admit("a"):
                raise AssertionError
        await all_of_them.begin("a3")
        await all_of_them.end("a1")
        assert all_of_them.admitted == ["a1", "a3"]


async def test_cancelled_at_the_moment_of_admission(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A request that is admitted and cancelled at once lets the next one in."""
    async with requests(Bounds(total=1, each=1, waiting=9)) as all_of_them:
        await all_of_them.begin("a1")
        with trio.CancelScope() as scope:
            all_of_them.nursery.start_soon(_end_and_cancel, all_of_them, scope)
            async with all_of_them.limiter.admit("b"):
                raise AssertionError
        assert scope.cancelled_caught
        await all_of_them.begin("c1")
        assert all_of_them.admitted == ["a1", "c1"]


async def _end_and_cancel(requests: Requests, scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    requests.ends["a1"].set()
    await trio.testing.wait_all_tasks_blocked()
