"""Which run logs wait for an older one of their node, and for how long."""

from math import inf

import pytest
import trio
from trio.testing import MockClock

from relayd.spool.holds import HOLD_S, Holds


def name(node: str, minute: int) -> str:
    return f"2026-03-01T10:{minute:02}:01+00:00@{node}.log.gz"


OF_NODE = [name("a", minute) for minute in range(5)]
LATE = 4e9


@pytest.mark.fault("F18")
async def test_newer_runs_wait_for_one_that_failed(autojump_clock: MockClock) -> None:
    """Only newer runs of the same node wait, until it has gone in or a minute has passed."""
    holds = Holds()
    holds.add(OF_NODE[1])
    assert holds.until("a", LATE) == trio.current_time() + HOLD_S
    assert holds.until("a", 0.0) == holds.until("b", LATE) == 0
    holds.forget(OF_NODE[1])
    assert holds.until("a", LATE) == 0
    assert holds.freed == {"a"}
    holds.add(OF_NODE[2])
    await trio.sleep(HOLD_S)
    assert holds.until("a", LATE) == 0


async def test_while_the_output_is_away_the_order_is_kept(autojump_clock: MockClock) -> None:
    """Newer runs wait until it is back, then for what failed; a short outage changes nothing."""
    holds = Holds()
    holds.add(OF_NODE[0])
    await trio.sleep(HOLD_S)
    holds.begin_outage()
    holds.add(name("b", 0))
    assert holds.until("a", LATE) == holds.until("b", LATE) == inf
    assert holds.until("a", 0.0) == 0
    await trio.sleep(HOLD_S - 1)
    assert holds.end_outage() == set()
    assert holds.until("a", LATE) == 0
    assert holds.until("b", LATE) == trio.current_time() + 1
    holds.begin_outage()
    await trio.sleep(10 * HOLD_S)
    assert holds.until("b", LATE) == inf
    holds.freed.clear()
    assert holds.end_outage() == {OF_NODE[0], name("b", 0)}
    assert holds.freed == {"a", "b"}
    assert holds.until("a", LATE) == holds.until("b", LATE) == trio.current_time() + HOLD_S
    for file in (OF_NODE[0], name("b", 0)):
        holds.forget(file)
    assert holds.until("a", LATE) == holds.until("b", LATE) == 0


@pytest.mark.fault("F18")
async def test_many_that_fail_hold_up_a_node_for_a_minute_together(
    autojump_clock: MockClock,
) -> None:
    """However many run logs of a node fail, one after the other, newer ones wait for a minute."""
    holds = Holds()
    begin = trio.current_time()
    for failed in OF_NODE:
        holds.add(failed)
        await trio.sleep(HOLD_S / 4)
        holds.lift(failed)
        holds.add(failed)
    assert trio.current_time() > begin + HOLD_S
    assert holds.until("a", LATE) == 0
    for failed in OF_NODE:
        holds.forget(failed)
    holds.add(OF_NODE[0])
    assert holds.until("a", LATE) == trio.current_time() + HOLD_S
