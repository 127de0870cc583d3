"""What was logged: through the real thread, into a real file."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from relayd.config.logging_conf import LoggingGeneral
from relayd.config.main_conf import LoggingSettings
from relayd.telemetry import logs

#: What could end a line, move a cursor, reorder or hide text, or resemble another field.
PAYLOADS = [
    *(f"a{chr(code)}b" for code in (*range(0x20), *range(0x7F, 0xA0))),
    *(f"a{char}b" for char in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"),
    *(f"a{char}b" for char in "\u2066\u2067\u2068\u2069\u2028\u2029\u200b\ufeff"),
    *(f"a{char}b" for char in "\u00ad\u180e\u3000\ufff9\U000e0041\ud800\udcff\ufffe"),
    "a\nERROR main: forged",
    "a\r\n<0>main: forged",
    "a\x1b[2J\x1b[1;1H",
    "a\x1b]0;title\x07",
    "a\x9b31mred",
    'a" level=error event="b',
    'a\\" b=c',
    "a\\",
    "",
    " ",
    "=",
    '"',
]


def settings(
    level: str = "trace", directives: str = "", form: str = "text", file_lines: int = 200
) -> LoggingSettings:
    """Return logging settings as logging.conf would give them; everything is logged by default."""
    general = LoggingGeneral(
        level=level,  # type: ignore[arg-type]
        filter=directives,
        format=form,  # type: ignore[arg-type]
        file_lines=file_lines,
    )
    return LoggingSettings(general=general)


def written(path: Path, act: Callable[[], object], how: LoggingSettings | None = None) -> str:
    """Run `act` with logging to the file `path` and returns what the file holds at the end.

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
