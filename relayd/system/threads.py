"""Blocking work in threads, which waits while the system cannot start one."""

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from relayd.system.shortage import is_shortage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Seconds between attempts to start a thread: a limit of tasks is usually reached for seconds.
RETRY_S: Final = 0.25

_observers: list[Callable[[str], None]] = []


def observe_shortage(observer: Callable[[str], None]) -> None:
    """Call `observer` with the name of the work each time that work has to wait for a thread."""
    _observers.append(observer)


async def in_thread(
    work: Callable[[*Ts], T],
    *args: *Ts,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Run blocking work in a thread, as `trio.to_thread.run_sync` with the same arguments.

    At the limit of tasks (RLIMIT_NPROC, the TasksMax of systemd) it waits until a thread can be
    started, instead of failing: nothing is wrong with the work.
    """
    waiting = False
    while True:
        try:
            return await trio.to_thread.run_sync(
                work, *args, limiter=limiter, abandon_on_cancel=abandon_on_cancel
            )
        except RuntimeError as error:
            if not is_shortage(error):
                raise
        if not waiting:
            for observer in _observers:
                observer(_name(work))
        waiting = True
        await trio.sleep(RETRY_S)


def _name(work: object) -> str:
    return getattr(getattr(work, "func", work), "__name__", type(work).__name__)
