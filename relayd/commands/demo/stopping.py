"""How signals end the demo: the first one gracefully, each further one sooner."""

import signal
from collections.abc import AsyncIterable, Callable
from typing import Final

import trio

STARTING: Final = "Stopping."
COUNTING: Final = (
    "Stopping: relayd processes what was uploaded, then everything is counted."
    " Ctrl-C again does not wait for that."
)
HURRYING: Final = "Stopping without waiting any longer. Ctrl-C once more leaves out the accounts."
ABANDONED: Final = "Stopped at once; the accounts are left out."


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end the demo; not SIGHUP if it was started to ignore it (nohup)."""
    found = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


class Stopping:
    """What was asked for by signals.

    Attributes:
        requested: set when no more is to be uploaded.
        patience: scope of everything that only waits for work to be finished.
        everything: scope of the whole demo.
        begun: whether uploads have begun, so that there is something to count.
        hung_up: whether the terminal was closed, so that nobody can read the accounts.
    """

    def __init__(self, say: Callable[[str], None], *, terminal: bool) -> None:
        """Prepare for signals.

        Args:
            say: called with a sentence when a signal has changed what happens.
            terminal: whether the output is a terminal.
        """
        self.requested = trio.Event()
        self.patience = trio.CancelScope()
        self.everything = trio.CancelScope()
        self.begun = False
        self.hung_up = False
        self._say = say
        self._terminal = terminal

    async def watch(self, signals: AsyncIterable[int]) -> None:
        """Act on each signal."""
        async for number in signals:
            if number == signal.SIGHUP and self._terminal:
                self.hung_up = True
                self.everything.cancel()
            elif not self.everything.cancel_called:
                self._next()

    def _next(self) -> None:
        if not self.begun:
            self.everything.cancel()
            self._say(STARTING)
        elif not self.requested.is_set():
            self.requested.set()
            self._say(COUNTING)
        elif not self.patience.cancel_called:
            self.patience.cancel()
            self._say(HURRYING)
        else:
            self.everything.cancel()
