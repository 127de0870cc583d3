"""Signals end the demo, each further one sooner."""

import signal
from collections.abc import AsyncIterator

import pytest
import trio

from relayd.commands.demo.stopping import (
    COUNTING,
    HURRYING,
    STARTING,
    Stopping,
    ending_signals,
)


async def after(
    *signals: int, terminal: bool = True, begun: bool = True
) -> tuple[Stopping, list[str]]:
    """Return the state after signals, and the sentences said."""

    async def stream() -> AsyncIterator[int]:
        for number in signals:
            await trio.lowlevel.checkpoint()
            yield number

    said: list[str] = []
    stopping = Stopping(said.append, terminal=terminal)
    stopping.begun = begun
    await stopping.watch(stream())
    return stopping, said


@pytest.mark.fault("F47")
async def test_each_interrupt_shortens_the_end() -> None:
    """The first lets relayd finish, the second waits for nothing, the third drops the accounts."""
    interrupt = signal.SIGINT
    once, said = await after(interrupt)
    assert said == [COUNTING]
    assert once.requested.is_set()
    assert not once.patience.cancel_called
    twice, said = await after(interrupt, signal.SIGTERM)
    assert said == [COUNTING, HURRYING]
    assert twice.patience.cancel_called
    assert not twice.everything.cancel_called
    more, said = await after(*[interrupt] * 5)
    assert said == [COUNTING, HURRYING]
    assert more.everything.cancel_called


@pytest.mark.fault("F47")
async def test_before_uploads_one_interrupt_ends_everything() -> None:
    """While there is nothing to count, the first interrupt ends the demo, and says so once."""
    stopping, said = await after(signal.SIGINT, signal.SIGINT, begun=False)
    assert said == [STARTING]
    assert stopping.everything.cancel_called


@pytest.mark.fault("F47")
async def test_a_closed_terminal_ends_everything() -> None:
    """Without a terminal no one reads accounts; a hangup without a terminal is a usual signal."""
    stopping, said = await after(signal.SIGINT, signal.SIGHUP)
    assert said == [COUNTING]
    assert stopping.hung_up
    assert stopping.everything.cancel_called
    stopping, said = await after(signal.SIGHUP, terminal=False)
    assert said == [COUNTING]
    assert not stopping.hung_up


def test_an_ignored_hangup_stays_ignored() -> None:
    """A demo started by nohup is not ended by the end of its session."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert signal.SIGHUP in ending_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)
