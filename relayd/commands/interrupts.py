"""Ctrl-C for commands that have something to put in order before they end."""

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
