"""Concurrent callers share runs."""

import pytest
import trio
import trio.testing

from relayd.api.coalesce import Coalesced
from relayd.errors import NodesError


@pytest.mark.fault("A22")
async def test_a_thousand_callers_share_two_runs() -> None:
    """The first caller gets a run, all callers during it share a second; the two never overlap."""
    running, most, runs = 0, 0, 0
    gate = trio.Event()

    async def action() -> None:
        nonlocal running, most, runs
        running += 1
        runs += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    coalesced = Coalesced(action)
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(coalesced)
        await trio.testing.wait_all_tasks_blocked()
        assert runs == 1
        for _ in range(1000):
            nursery.start_soon(coalesced)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert (runs, most) == (2, 1)


async def test_a_caller_gets_a_run_that_begins_after_its_call() -> None:
    """A change during a run is seen by the run of the next caller."""
    world, seen = "old", []
    gate = trio.Event()

    async def action() -> None:
        seen.append(world)
        await gate.wait()

    coalesced = Coalesced(action)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(coalesced)
        await trio.testing.wait_all_tasks_blocked()
        world = "new"
        nursery.start_soon(coalesced)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert seen == ["old", "new"]


async def test_an_error_reaches_all_who_share_the_run_and_no_later_one() -> None:
    """A failed run fails its callers; the next call runs again."""
    outcomes, fails = [], True
    gate = trio.Event()

    async def action() -> None:
        await gate.wait()
        if fails:
            raise NodesError("broken")

    coalesced = Coalesced(action)

    async def call() -> None:
        try:
            await coalesced()
        except NodesError as error:
            outcomes.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    fails = False
    await coalesced()
    assert outcomes == ["broken"] * 3


async def test_a_cancelled_caller_leaves_the_run_to_the_next() -> None:
    """A cancelled caller does not affect the waiting ones."""
    begun, ended = 0, 0
    gate = trio.Event()

    async def action() -> None:
        nonlocal begun, ended
        begun += 1
        await gate.wait()
        ended += 1

    coalesced = Coalesced(action)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leave() -> None:
            with scope:
                await coalesced()

        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(coalesced)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert (begun, ended) == (2, 1)
