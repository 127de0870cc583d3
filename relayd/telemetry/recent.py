"""The last warnings and errors of the log, for those who ask the running relayd."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from relayd.system.printable import printable
from relayd.telemetry.lines import shown_text

#: Lines that are kept.
KEPT: Final = 50
#: Characters of each.
MAX_LINE: Final = 400
#: Method of the logger → level.
_LEVELS: Final = {"warning": "warning", "error": "error", "exception": "error"}


class RecentLine(msgspec.Struct, frozen=True):
    """One line of the log.

    Attributes:
        at: Unix time.
        level: "warning" or "error".
        component: that logged it.
        text: event and fields, printable.
    """

    at: float
    level: str
    component: str
    text: str


class Recent:
    """Counts warnings and errors and keeps the last ones; some 30 kB at most.

    Attributes:
        count: since the start, also those that the log left out because there were so many.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.count = 0
        self._now = now
        self._lines: deque[RecentLine] = deque(maxlen=KEPT)

    def note(self, method: str, event: Mapping[str, Any]) -> None:
        """Take note of a line before it is written.

        Args:
            method: of the logger.
            event: with the component and the fields.
        """
        level = _LEVELS.get(method)
        if level is None:
            return
        self.count += 1
        text = printable(shown_text(event), MAX_LINE)
        self._lines.append(RecentLine(self._now(), level, event["component"], text))

    @property
    def lines(self) -> tuple[RecentLine, ...]:
        """The last lines, oldest first."""
        return tuple(self._lines)
