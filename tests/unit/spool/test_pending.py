"""Who is in flight, and who must be looked at again."""

import random
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relayd.spool.pending import Pending
from relayd.system.delays import DELAYS


@pytest.fixture
def pending() -> Pending:
    return Pending(jitter=random.Random(7))


async def delay_of(pending: Pending) -> float:
    """Seconds until the next name is due; Trio time is moved there by the autojump clock."""
    return pending.next_due() - trio.current_time()


@pytest.mark.fault("S17")
@pytest.mark.history(9)
async def test_name_in_flight_cannot_be_claimed_again(pending: Pending) -> None:
    """A name is in flight once, whoever announces it."""
    assert pending.claim("a.log")
    assert not pending.claim("a.log")
    assert pending.in_flight == 1


async def test_released_name_is_forgotten(pending: Pending) -> None:
    """A released name is neither in flight nor waiting and can be claimed again."""
    pending.claim("a.log")
    pending.release("a.log")
    assert "a.log" not in pending
    assert pending.take_due(10) == []
    assert pending.claim("a.log")


@pytest.mark.fault("S3")
async def test_name_that_changed_in_flight_is_due_at_once(pending: Pending) -> None:
    """A file replaced while its predecessor was worked on is looked at right afterwards."""
    pending.claim("a.log")
    pending.claim("a.log")
    pending.release("a.log")
    assert pending.take_due(10) == ["a.log"]


async def test_retry_waits_longer_each_time(
    pending: Pending, autojump_clock: trio.testing.MockClock
) -> None:
    """Delays double from a second to ten minutes, spread by no more than a quarter."""
    for attempt in range(14):
        pending.claim("a.log")
        pending.retry("a.log")
        doubled = min(DELAYS.file.longest, 2.0**attempt)
        assert doubled * 0.75 <= await delay_of(pending) <= min(doubled * 1.25, DELAYS.file.longest)
        assert pending.attempts("a.log") == attempt + 1
        assert pending.take_due(1) == []
        await trio.sleep_until(pending.next_due())
        assert pending.take_due(1) == ["a.log"]


async def test_delays_are_spread(pending: Pending) -> None:
    """Files that failed together do not return together."""
    for number in range(100):
        pending.claim(f"{number}.log")
        pending.retry(f"{number}.log")
    assert len({when for when, _, _ in pending._heap}) > 90


async def test_retry_waits_at_least_the_floor(pending: Pending) -> None:
    """A floor longer than the delay counts, also beyond the longest delay."""
    for floor in (60.0, 2000.0):
        pending.claim("a.log")
        pending.retry("a.log", floor=floor)
        assert await delay_of(pending) == pytest.approx(floor)


async def test_attempts_are_forgotten_on_release(pending: Pending) -> None:
    """A file that got through starts with the first delay when its name fails again."""
    for _ in range(5):
        pending.claim("a.log")
        pending.retry("a.log")
    pending.claim("a.log")
    pending.release("a.log")
    assert pending.attempts("a.log") == 0
    pending.claim("a.log")
    pending.retry("a.log")
    assert await delay_of(pending) < 2


async def test_changed_name_that_fails_starts_with_the_first_delay(pending: Pending) -> None:
    """A newer file does not inherit the delays of the one it replaced."""
    for _ in range(8):
        pending.claim("a.log")
        pending.retry("a.log")
    pending.claim("a.log")
    pending.claim("a.log")
    pending.retry("a.log")
    assert await delay_of(pending) < 2


async def test_waiting_name_claimed_by_an_event_is_not_due_any_more(pending: Pending) -> None:
    """An event for a waiting name takes it out of the table: it is not worked on twice."""
    pending.claim("a.log")
    pending.retry("a.log")
    assert pending.claim("a.log")
    assert pending.waiting == 0
    assert pending.next_due() == float("inf")


async def test_table_is_bounded() -> None:
    """Names beyond the bound are not remembered but reported as left to a listing."""
    pending = Pending(remembered=3)
    for number in range(5):
        pending.claim(f"{number}.log")
        pending.retry(f"{number}.log")
    assert pending.waiting == 3
    assert pending.room == 0
    assert "4.log" not in pending
    assert pending.take_spilled()
    assert not pending.take_spilled()


async def test_stale_entries_do_not_pile_up(pending: Pending) -> None:
    """A name that is announced and fails again and again costs no more than one entry or so."""
    for _ in range(5000):
        pending.claim("a.log")
        pending.retry("a.log")
    assert len(pending._heap) < 100


async def test_forget_waiting_keeps_what_is_in_flight(pending: Pending) -> None:
    """After the delays are dropped only the names in flight are left out of a listing."""
    pending.claim("a.log")
    pending.retry("a.log")
    pending.claim("b.log")
    pending.forget_waiting()
    assert "a.log" not in pending
    assert "b.log" in pending
    assert pending.take_due(10) == []


async def test_drained_waits_for_all_in_flight(pending: Pending) -> None:
    """`drained` returns when the last name is released or put back, not before."""
    await pending.drained()
    pending.claim("a.log")
    pending.claim("b.log")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.drained)
        pending.release("a.log")
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        pending.retry("b.log")


async def test_earlier_due_time_rings(pending: Pending) -> None:
    """Whoever waits for the next due name is woken when another one is due earlier."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.news.wait)
        await trio.testing.wait_all_tasks_blocked()
        pending.claim("a.log")
        pending.retry("a.log")


ALL = ["a.log", "b.log", "c.log", "d.log"]
NAMES = st.sampled_from(ALL)
STEPS = st.lists(st.tuples(st.sampled_from(["claim", "release", "retry", "due"]), NAMES))


class Model:
    """The plain meaning of the table: three sets and who changed meanwhile."""

    def __init__(self) -> None:
        self.flying: set[str] = set()
        self.changed: set[str] = set()
        self.waiting: set[str] = set()

    def claim(self, name: str) -> bool:
        """True when it was not in flight."""
        if name in self.flying:
            self.changed.add(name)
            return False
        self.waiting.discard(name)
        self.flying.add(name)
        return True

    def land(self, name: str, *, retried: bool) -> None:
        """Out of flight; it waits when it was put back or has changed."""
        self.flying.remove(name)
        if retried or name in self.changed:
            self.waiting.add(name)
        self.changed.discard(name)


@given(STEPS)
def test_agrees_with_its_model(steps: list[tuple[str, str]]) -> None:
    """In whatever order names are claimed, released and put back, none is lost or doubled."""

    async def scenario() -> None:
        pending, model = Pending(), Model()
        for action, name in steps:
            _step(pending, model, action, name)
            assert pending.in_flight == len(model.flying)
            assert pending.waiting == len(model.waiting)
            known = model.flying | model.waiting
            assert [n for n in ALL if n in pending] == [n for n in ALL if n in known]
            if action == "due":
                await trio.sleep(2 * DELAYS.file.longest)
                due = pending.take_due(10)
                assert sorted(due) == sorted(model.waiting)
                model.waiting.clear()

    run_with_clock(scenario)


def _step(pending: Pending, model: Model, action: str, name: str) -> None:
    if action == "claim":
        assert pending.claim(name) == model.claim(name)
    elif action in ("release", "retry") and name in model.flying:
        getattr(pending, action)(name)
        model.land(name, retried=action == "retry")


def run_with_clock(scenario: Callable[..., object]) -> None:
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))  # type: ignore[arg-type]
