"""SIGHUP, SIGTERM and SIGINT outside of the time in which the service waits for them.

Before that relayd has done nothing that would have to be completed, so a stop ends it at once.
Python's own way, an exception wherever the program is, would end with a traceback, and with an exit
code that says that relayd crashed. A reload is made as soon as the service can make one.
"""

import os
import signal
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT)


def allow_hangup() -> None:
    """Deliver SIGHUP, which `relayd.commands.entry` has blocked, also one that was sent before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class EarlySignals:
    """The signals of the daemon until the service takes over, and after it has ended.

    A stop signal ends the process with exit code 0, SIGHUP is remembered.
    """

    def __init__(self) -> None:
        self._over = False
        self._reload = False

    def install(self) -> None:
        """Take the signals; those to stop not if they are ignored on purpose: nohup(1)."""
        for number in _STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._remember)
        allow_hangup()

    def over(self) -> bool:
        """Leave the signals to the service; those that come after it has no effect any more.

        Returns:
            whether a reload was asked for.
        """
        self._over = True
        return self._reload

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        if not self._over:
            os._exit(0)

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True


early_signals = EarlySignals()
