"""A bridge from Python's `logging`, which libraries use, to relayd's own log.

Libraries log each of their steps, for their own developers. Everything below a warning therefore
counts as trace, so that the level debug shows relayd's own steps only.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from relayd.config.log_filter import ERROR, TRACE, WARNING

#: Level, component, event, exception.
Log = Callable[[int, str, str, BaseException | None], None]

#: Where an object lies in memory says nothing to the reader of a log.
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")

#: First part of a library's logger name → relayd's component; others belong to `main`.
_COMPONENTS: Final = {
    "asyncio": "database",
    "asyncpg": "database",
    "h11": "api",
    "httpcore2": "upstream",
    "httpx2": "upstream",
    "hypercorn": "api",
    "quart": "api",
    "quart_trio": "api",
    "trio_asyncio": "database",
}


class Bridge(logging.Handler):
    """Passes records to relayd's log; formats a record only if its level is enabled."""

    def __init__(self, log: Log, enabled: Callable[[int, str, str], bool]) -> None:
        super().__init__()
        self._log = log
        self._enabled = enabled

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        """Use no lock: there is no state to protect, and a finaliser may log at any time."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library."""
        library = record.name.partition(".")[0]
        component = _COMPONENTS.get(library, "main")
        level = _level(record.levelno)
        if self._enabled(level, library, component):
            error = record.exc_info[1] if record.exc_info else None
            self._log(level, component, f"{record.name}: {_message(record)}", error)


@contextmanager
def bridged(log: Log, enabled: Callable[[int, str, str], bool]) -> Iterator[None]:
    """Redirect the root logger and Python's warnings; restore both at the end.

    Args:
        log: gets the records of libraries.
        enabled: returns whether a level of a library that belongs to a component is logged.
    """
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [Bridge(log, enabled)]
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:], level = before
        root.setLevel(level)


def library_floor(floor: int) -> int:
    """Return the level below which libraries need not even make records.

    Args:
        floor: the level below which relayd logs nothing.
    """
    return floor if floor <= TRACE else max(floor, WARNING)


def _level(number: int) -> int:
    """Return the level of a library's line in relayd's log."""
    for level in (ERROR, WARNING):
        if number >= level:
            return level
    return TRACE


def _message(record: logging.LogRecord) -> str:
    try:
        return _ADDRESS.sub("", record.getMessage())
    except (TypeError, ValueError, KeyError):  # the arguments do not match the format string
        return str(record.msg)
