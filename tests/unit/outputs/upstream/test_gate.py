"""Backing off as a whole: when uploads are let through, and when not."""

from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.outputs.health import Trouble
from relayd.outputs.upstream.gate import IN_A_ROW, Gate
from relayd.system.delays import DELAYS, Steps

UNREACHABLE = DELAYS.upstream_unreachable.seconds

AWAY = Trouble("no connection", "transient", reached=False)
STRANGER = Trouble("another certificate", "operator", reached=False)
BUSY = Trouble("answered 503", "transient")
REFUSED = Trouble("answered 403", "operator")
UNWANTED = Trouble("answered 413", "file")


class Guard:
    """A gate and what it reported."""

    def __init__(self) -> None:
        self.reports: list[Trouble | None] = []
        self.gate = Gate(self.reports.append)

    async def upload(self, trouble: Trouble | None) -> float:
        """One upload that ends so; how long it had to wait, in seconds."""
        before = trio.current_time()
        attempt = await self.gate.enter()
        assert attempt is not None
        with self.gate.using(attempt):
            attempt.end(trouble)
        return trio.current_time() - before

    async def close(self, trouble: Trouble = AWAY) -> None:
        """Lets uploads fail until it is closed."""
        while self.gate.trouble is None:
            await self.upload(trouble)


@pytest.fixture
def guard() -> Guard:
    return Guard()


async def test_open_gate_lets_all_through_at_once(guard: Guard, autojump_clock: MockClock) -> None:
    """Nobody waits while uploads succeed, and several may be under way."""
    attempts = [await guard.gate.enter() for _ in range(100)]
    assert None not in attempts
    assert await guard.upload(None) == 0


async def test_an_upstream_that_is_not_reached_closes_at_once(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """One missing connection is enough; the next attempt waits, ever longer up to the bound."""
    assert await guard.upload(AWAY) == 0
    assert guard.reports == [AWAY]
    for delay in (*UNREACHABLE, UNREACHABLE[-1]):
        assert 0.75 * delay <= await guard.upload(AWAY) <= 1.25 * delay
    assert 0.75 * UNREACHABLE[-1] <= await guard.upload(None)
    assert guard.reports[-1] is None
    assert await guard.upload(AWAY) == 0
    assert await guard.upload(None) <= 1.25 * UNREACHABLE[0]


@pytest.mark.parametrize(
    ("trouble", "delays"), [(STRANGER, DELAYS.upstream_operator), (BUSY, DELAYS.upstream_failing)]
)
async def test_delays_by_what_is_wrong(
    guard: Guard, autojump_clock: MockClock, trouble: Trouble, delays: Steps
) -> None:
    """An upstream that needs an operator is tried less often, one that answers more often."""
    await guard.close(trouble)
    for delay in delays.seconds:
        assert 0.75 * delay <= await guard.upload(trouble) <= 1.25 * delay


async def test_delays_of_two_relays_differ(guard: Guard, autojump_clock: MockClock) -> None:
    """Delays are scattered, so that relays do not come back together."""
    other = Guard()
    waits = []
    for one in (guard, other):
        await one.close()
        waits.append(await one.upload(None))
    assert waits[0] != waits[1]


async def test_failures_with_success_between_close_nothing(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """An upstream that answers some files is not away, however many others it fails for."""
    for _ in range(20):
        for _ in range(IN_A_ROW - 1):
            assert await guard.upload(BUSY) == 0
        assert await guard.upload(None) == 0
    assert guard.gate.trouble is None
    await guard.close(BUSY)
    assert guard.reports[-1] == BUSY


@pytest.mark.parametrize("trouble", [REFUSED, UNWANTED])
async def test_refusals_close_nothing(
    guard: Guard, autojump_clock: MockClock, trouble: Trouble
) -> None:
    """What is refused on purpose waits by itself, not for others; if all are, that is reported."""
    for _ in range(5 * IN_A_ROW):
        assert await guard.upload(trouble) == 0
    assert (guard.reports[-1] == trouble) is (trouble is REFUSED)
    await guard.upload(None)
    assert guard.reports[-1] is None


async def test_a_refusal_opens_a_closed_gate(guard: Guard, autojump_clock: MockClock) -> None:
    """Who refuses a file is there again."""
    await guard.close()
    await guard.upload(REFUSED)
    assert guard.gate.trouble is None


async def test_one_at_a_time_tries_a_closed_gate(guard: Guard, autojump_clock: MockClock) -> None:
    """While one tries, all others wait; its success lets all of them through."""
    await guard.close()
    through: list[int] = []
    release = trio.Event()

    async def upload(number: int) -> None:
        attempt = await guard.gate.enter()
        assert attempt is not None
        through.append(number)
        await release.wait()
        with guard.gate.using(attempt):
            attempt.end(None)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(upload, number)
        await trio.sleep(100)
        assert len(through) == 1
        release.set()
    assert len(through) == 50


async def test_failures_from_before_it_closed_say_nothing_new(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """Thirty uploads that fail together count as one failure."""
    attempts = [await guard.gate.enter() for _ in range(30)]
    for attempt in attempts:
        assert attempt is not None
        with guard.gate.using(attempt):
            attempt.end(AWAY)
    assert guard.reports == [AWAY]
    assert await guard.upload(None) <= 1.25 * UNREACHABLE[0]


async def test_a_probe_that_was_overtaken_keeps_nobody_out(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """An old upload opens the gate while another probes; when it closes again, one may try."""
    slow = await guard.gate.enter()
    assert slow is not None
    await guard.close()
    probe = await guard.gate.enter()
    assert probe is not None
    with guard.gate.using(slow):
        slow.end(None)
    await guard.close()
    with trio.fail_after(100):
        await guard.upload(AWAY)
    with guard.gate.using(probe):
        probe.end(AWAY)
    with trio.fail_after(100):
        await guard.upload(None)
    assert guard.gate.trouble is None


async def test_one_that_leaves_without_trying_lets_the_next_try(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """A holder whose file was gone, or that was cancelled, does not keep the gate closed."""
    await guard.close()
    attempt = await guard.gate.enter()
    assert attempt is not None
    with guard.gate.using(attempt):
        pass
    assert await guard.upload(None) == 0


async def test_a_wait_that_was_asked_for_is_kept(guard: Guard, autojump_clock: MockClock) -> None:
    """A closed gate stays closed as long as the upstream asked."""
    await guard.close(Trouble("answered 503", "transient", wait=120.0))
    assert await guard.upload(None) >= 120


@pytest.mark.parametrize(("act", "goes"), [(Gate.wake, True), (Gate.stop, False)])
async def test_waiting_ends_by_news_and_by_a_stop(
    guard: Guard, autojump_clock: MockClock, act: Callable[[Gate], None], goes: bool
) -> None:
    """News lets the next one try at once; a stop sends those away that wait."""
    await guard.close(STRANGER)
    attempts: list[bool] = []

    async def enter() -> None:
        attempts.append(await guard.gate.enter() is not None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        assert attempts == []
        before = trio.current_time()
        act(guard.gate)
    assert attempts == [goes]
    assert trio.current_time() == before


async def test_files_that_failed_before_let_others_go_first(
    guard: Guard, autojump_clock: MockClock
) -> None:
    """At a closed gate a new file is tried before thirty that failed already."""
    await guard.close(BUSY)
    order: list[str] = []

    async def try_one(name: str, *, retried: bool) -> None:
        attempt = await guard.gate.enter(retried=retried)
        assert attempt is not None
        with guard.gate.using(attempt):
            order.append(name)
            attempt.end(BUSY)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(partial(try_one, f"old {number}", retried=True))
        await wait_all_tasks_blocked()
        assert guard.gate.is_full_of_retries(30)
        nursery.start_soon(partial(try_one, "new", retried=False))
    assert order[0] == "new"
    assert len(order) == 31
    assert not guard.gate.is_full_of_retries(1)
