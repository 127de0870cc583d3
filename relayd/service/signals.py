"""SIGTERM and SIGINT outside of the time in which the service waits for them.

Before that relayd has done nothing that would have to be completed, so it ends at once. Python's
own way, an exception wherever the program is, would end with a traceback, and with an exit code
that says that relayd crashed.
"""

import os
import signal
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT)


class EarlyStop:
    """Ends the process with exit code 0 on a stop signal, until the service takes over."""

    def __init__(self) -> None:
        self._over = False

    def install(self) -> None:
        """Take the signals, unless they are ignored on purpose: nohup(1)."""
        for number in _STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)

    def over(self) -> None:
        """Leave the signals to the service; those that come after it has no effect any more."""
        self._over = True

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        if not self._over:
            os._exit(0)


early_stop = EarlyStop()
