"""A bridge from Python's `logging`, which libraries use, to relayd's own log."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from relayd.config.log_filter import DEBUG, ERROR, INFO, TRACE, WARNING

#: Level, component, event, exception.
Log = Callable[[int, str, str, BaseException | None], None]

#: First part of a library's logger name → relayd's component; others belong to `main`.
_COMPONENTS: Final = {
    "asyncio": "database",
    "asyncpg": "database",
    "hypercorn": "api",
    "quart": "api",
    "trio_asyncio": "database",
}


class Bridge(logging.Handler):
    """Passes records to relayd's log; formats a record only if its level is enabled."""

    def __init__(self, log: Log, enabled: Callable[[int, str], bool]) -> None:
        super().__init__()
        self._log = log
        self._enabled = enabled

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        """Use no lock: there is no state to protect, and a finaliser may log at any time."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library."""
        component = _COMPONENTS.get(record.name.partition(".")[0], "main")
        level = _level(record.levelno)
        if self._enabled(level, component):
            error = record.exc_info[1] if record.exc_info else None
            self._log(level, component, f"{record.name}: {_message(record)}", error)


@contextmanager
def bridged(log: Log, enabled: Callable[[int, str], bool]) -> Iterator[None]:
    """Redirect the root logger and Python's warnings; restore both at the end."""
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


def _level(number: int) -> int:
    for level in (ERROR, WARNING, INFO, DEBUG):
        if number >= level:
            return level
    return TRACE


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # the arguments do not match the format string
        return str(record.msg)
