"""The table of files that are in flight or wait for a retry."""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from relayd.spool.holds import HOLD_S
from relayd.spool.pending import Pending
from relayd.system.delays import DELAYS
from tests.support.pipeline import name_of


@pytest.fixture
def pending() -> Pending:
    return Pending(jitter=random.Random(7))


async def delay_of(pending: Pending) -> float:
    """Return the seconds until the next name is due."""
    return pending.next_due() - trio.current_time()


@pytest.mark.fault("S17")
@pytest.mark.history(9)
async def test_name_in_flight_cannot_be_claimed_again(pending: Pending) -> None:
    """A name is in flight only once, even if it is announced twice."""
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
    """A file replaced while its predecessor is processed is due right afterwards."""
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
        assert pending.take_due(1) == []
        await trio.sleep_until(pending.next_due())
        assert pending.take_due(1) == ["a.log"]


async def test_delays_are_spread(pending: Pending) -> None:
    """Files that failed together are not retried together."""
    for number in range(100):
        pending.claim(f"{number}.log")
        pending.retry(f"{number}.log")
    assert len({when for when, _, _ in pending._heap}) > 90


async def test_retry_waits_at_least_the_floor(pending: Pending) -> None:
    """The delay is at least the floor, even beyond the longest delay."""
    for floor in (60.0, 2000.0):
        pending.claim("a.log")
        pending.retry("a.log", floor=floor)
        assert await delay_of(pending) == pytest.approx(floor)


async def test_attempts_are_forgotten_on_release(pending: Pending) -> None:
    """After a success, a name that fails again starts with the first delay."""
    for _ in range(5):
        pending.claim("a.log")
        pending.retry("a.log")
    pending.claim("a.log")
    pending.release("a.log")
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


async def test_waiting_name_claimed_by_an_event_is_no_longer_due(pending: Pending) -> None:
    """A waiting name that is claimed because of an event is not processed twice."""
    pending.claim("a.log")
    pending.retry("a.log")
    assert pending.claim("a.log")
    assert pending.next_due() == float("inf")


async def test_after_an_outage_what_failed_is_due_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Unless a later time was asked for, and also what was in flight when it ended."""
    pending = Pending(one_by_one=True, jitter=random.Random(7))
    failed, asked, flying, own = (name_of(0, f"node{number}") for number in range(4))
    pending.note_output(away=True)
    for _ in range(12):
        for name in (failed, flying, own):
            pending.claim(name)
            pending.retry(name, alone=name == own)
        assert await delay_of(pending) <= HOLD_S
        await trio.sleep(HOLD_S)
    pending.claim(asked)
    pending.retry(asked, floor=1000.0)
    pending.claim(flying)
    pending.note_attempt(flying)
    pending.take_due(10)
    pending.claim(failed)
    pending.retry(failed)
    pending.note_output(away=False)
    assert pending.take_due(10) == [failed]
    pending.retry(flying)
    await trio.sleep(2.0)
    assert pending.take_due(10) == [flying]


async def test_table_is_bounded() -> None:
    """Names beyond the bound are not remembered, which is reported so that a listing follows."""
    pending = Pending(remembered=3)
    for number in range(5):
        pending.claim(f"{number}.log")
        pending.retry(f"{number}.log")
    assert [f"{number}.log" in pending for number in range(5)] == [True] * 3 + [False] * 2
    assert pending.capacity == 0
    assert pending.take_spilled()
    assert not pending.take_spilled()


async def test_stale_entries_do_not_pile_up(pending: Pending) -> None:
    """A name that is announced and fails again and again does not fill the table."""
    for _ in range(5000):
        pending.claim("a.log")
        pending.retry("a.log")
    assert len(pending._heap) < 100


async def test_forget_waiting_keeps_names_in_flight(pending: Pending) -> None:
    """After waiting names are forgotten, only names in flight are left out of a listing."""
    pending.claim("a.log")
    pending.retry("a.log")
    pending.claim("b.log")
    pending.forget_waiting()
    assert "a.log" not in pending
    assert "b.log" in pending
    assert pending.take_due(10) == []


async def test_in_flight_counts_claimed_names(pending: Pending) -> None:
    """A name is counted from its claim until it is released or put back."""
    pending.claim("a.log")
    pending.claim("b.log")
    assert pending.in_flight == 2
    pending.release("a.log")
    assert pending.in_flight == 1
    pending.retry("b.log")
    assert pending.in_flight == 0


async def test_earlier_due_time_wakes(pending: Pending) -> None:
    """A task that waits for the next due name is woken when another one is due earlier."""
    woken = trio.Event()

    async def wait() -> None:
        await pending.wake.wait()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not woken.is_set()
        pending.claim("a.log")
        pending.retry("a.log")
        await woken.wait()
    assert woken.is_set()


ALL = ["a.log", "b.log", "c.log", "d.log"]
NAMES = st.sampled_from(ALL)
STEPS = st.lists(st.tuples(st.sampled_from(["claim", "release", "retry", "due"]), NAMES))


class Model:
    """A simple model of the table: names in flight, names that changed, and waiting names."""

    def __init__(self) -> None:
        self.flying: set[str] = set()
        self.changed: set[str] = set()
        self.waiting: set[str] = set()

    def claim(self, name: str) -> bool:
        """Return True if it was not in flight."""
        if name in self.flying:
            self.changed.add(name)
            return False
        self.waiting.discard(name)
        self.flying.add(name)
        return True

    def land(self, name: str, *, retried: bool) -> None:
        """Take a name out of flight; it waits if it was put back or has changed."""
        self.flying.remove(name)
        if retried or name in self.changed:
            self.waiting.add(name)
        self.changed.discard(name)


@given(STEPS)
def test_agrees_with_its_model(steps: list[tuple[str, str]]) -> None:
    """No name is lost or duplicated, in whatever order names are claimed, released and retried."""

    async def scenario() -> None:
        pending, model = Pending(), Model()
        for action, name in steps:
            _step(pending, model, action, name)
            assert pending.in_flight == len(model.flying)
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


def run_with_clock(scenario: Callable[[], Awaitable[None]]) -> None:
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("by", ["put_back", "retry", "wait", "release", "nothing"])
async def test_a_recalled_name_goes_to_the_operator_however_the_pipeline_lets_go(
    pending: Pending, autojump_clock: trio.testing.MockClock, by: str
) -> None:
    """It stays claimed, is not sent in between, and one that is kept too long is left alone."""
    calls: list[str] = []
    pending.on_recall = lambda: calls.append("woken")
    pending.claim("a.log")
    claimed: list[str] = []

    async def recall() -> None:
        claimed.extend(await pending.recall(["a.log", "free.log"], 2.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recall)
        await trio.testing.wait_all_tasks_blocked()
        assert calls == ["woken"]
        if by == "wait":
            pending.wait("a.log", 5.0)
        elif by != "nothing":
            getattr(pending, by)("a.log")
    assert claimed == (["free.log"] if by == "nothing" else ["free.log", "a.log"])
    assert trio.current_time() == pytest.approx(2.0 if by == "nothing" else 0.0)
    assert pending.is_in_flight("a.log")
    assert pending.returned == []
    assert not pending.recalled
    pending.put_back("a.log")
    assert pending.returned == ["a.log"]


async def test_a_recall_that_is_cancelled_leaves_nothing_claimed(pending: Pending) -> None:
    """What was handed over already is sent in its turn, and the rest as if nobody had asked."""
    for name in ("a.log", "b.log"):
        pending.claim(name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.recall, ["a.log", "b.log", "free.log"], 60.0)
        await trio.testing.wait_all_tasks_blocked()
        pending.put_back("a.log")
        nursery.cancel_scope.cancel()
    assert sorted(pending.returned) == ["a.log", "free.log"]
    assert not pending.recalled
    pending.put_back("b.log")
    assert pending.in_flight == 0


async def test_newer_run_logs_wait_for_one_that_was_handed_over(pending: Pending) -> None:
    """What an operator has is sent again in its order, if it stays."""
    old = "2026-01-01T00:00:00+00:00@node-1.log"
    newer = "node-1", datetime(2026, 1, 1, 0, 5, tzinfo=UTC).timestamp()
    pending.claim(old)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.recall, [old], 60.0)
        await trio.testing.wait_all_tasks_blocked()
        pending.put_back(old)
    assert pending.holds.until(*newer) > 0
    pending.give_back((), [old])
    assert pending.holds.until(*newer) == 0
