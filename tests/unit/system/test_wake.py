"""A wake-up signal for one task."""

import trio
import trio.testing

from relayd.system.wake import Wake


async def test_signal_before_the_wait_is_kept() -> None:
    """A signal sent while no task waits makes only the next wait return at once."""
    wake = Wake()
    wake.set()
    wake.set()
    await wake.wait()
    with trio.move_on_after(0) as scope:
        await wake.wait()
    assert scope.cancelled_caught


async def test_cancelled_wait_keeps_the_signal() -> None:
    """A signal is not lost when the waiting task is cancelled at the same moment."""
    wake = Wake()
    wake.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wake.wait()
    assert scope.cancelled_caught
    await wake.wait()
