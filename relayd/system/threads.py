"""Blocking work in threads, which wait their turn also while the system has none to give."""

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from relayd.telemetry.logs import get_logger

log = get_logger("main")

T = TypeVar("T")

#: Between attempts to get a thread: a limit of tasks is usually reached for seconds.
AGAIN_S: Final = 0.25


async def in_thread(
    work: Callable[..., T],
    *args: object,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Run blocking work in a thread, as `trio.to_thread.run_sync` with the same arguments.

    At the limit of tasks (RLIMIT_NPROC, the TasksMax of systemd) it waits until a thread can be
    started, instead of failing: nothing is wrong with the work.
    """
    told = False
    while True:
        try:
            return await trio.to_thread.run_sync(
                work, *args, limiter=limiter, abandon_on_cancel=abandon_on_cancel
            )
        except RuntimeError as error:
            if not is_shortage(error):
                raise
        if not told:
            log.warning("no thread to be had, trying again", work=_name(work))
        told = True
        await trio.sleep(AGAIN_S)


def is_shortage(error: RuntimeError) -> bool:
    """Return whether Python raised this because the system gave it no thread (EAGAIN, clone(2))."""
    return str(error) == "can't start new thread"


def _name(work: Callable[..., object]) -> str:
    return getattr(getattr(work, "func", work), "__name__", type(work).__name__)
