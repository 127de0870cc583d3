"""What was logged: through the real thread, into a real file."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from relayd import logs
from relayd.config import LoggingSettings
from relayd.log_config import LoggingGeneral


def settings(level: str = "trace", directives: str = "", form: str = "text") -> LoggingSettings:
    """Logging settings as logging.conf would give them; everything is logged by default."""
    return LoggingSettings(
        general=LoggingGeneral(level=level, filter=directives, format=form)  # type: ignore[arg-type]
    )


def written(path: Path, act: Callable[[], object], how: LoggingSettings | None = None) -> str:
    """Runs `act` with logging to the file `path` and returns what the file holds at the end.

    The settings are the default ones again afterwards.
    """
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        logs.configure(how or settings(), stream_fd=fd)
        with logs.open_logging():
            act()
        return path.read_text()
    finally:
        logs.configure(LoggingSettings())
        with suppress(OSError):
            os.close(fd)
