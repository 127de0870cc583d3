"""Signals for commands that have something to put in order before they end."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGINT a `KeyboardInterrupt` in the block, unless it is ignored on purpose.

    Elsewhere it ends the program at once, see `relayd.commands.entry`.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def noted(*signals: signal.Signals) -> Iterator[list[int]]:
    """Collect signals in the block, which `obey` follows later; those ignored on purpose stay so.

    Args:
        signals: which ones.
    """
    came: list[int] = []
    taken = [one for one in signals if signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


def obey(came: list[int]) -> None:
    """Do what the collected signals do by default: the process may end or stop here.

    Returns once it continues; they are collected again from then on.
    """
    for number in came[:]:
        before = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, before)
    came.clear()
