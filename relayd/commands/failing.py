"""How a program says on standard error why it failed.

A tool writes a line for a person. The daemon's line ends up where its log does, so it has the
format of the log, as far as that is known. In the journal both have their priority.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from relayd.config.logging_conf import LoggingSettings, load_logging
from relayd.errors import RelaydError
from relayd.system.printable import printable
from relayd.system.streams import is_journal

_PRIORITIES: Final = {"error": "<3>", "warning": "<4>"}
_STDERR: Final = 2


def complain(
    text: str, daemon: Path | None = None, level: Literal["error", "warning"] = "error"
) -> None:
    """Write one line on standard error.

    Args:
        text: what is wrong.
        daemon: configuration directory of the daemon that cannot start; None for a tool.
        level: how bad it is.
    """
    # Where nobody can read it, the exit code is still the right one.
    with suppress(OSError):
        if daemon is not None and _logs_json(daemon):
            _write(_document(text, level).decode())
            return
        priority = _PRIORITIES[level] if is_journal(_STDERR) else ""
        _write(f"{priority}{level}: {printable(text)}\n")


def _write(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line)
        sys.stderr.flush()


def _logs_json(directory: Path) -> bool:
    """Return whether the log is JSON; a logging.conf that cannot be used counts as missing."""
    from relayd.telemetry.logs import wants_json

    try:
        settings = load_logging(directory)
    except RelaydError:
        settings = LoggingSettings()
    try:
        return wants_json(settings)
    except RelaydError:
        return False


def _document(text: str, level: str) -> bytes:
    from relayd.telemetry.lines import json_renderer

    render = json_renderer(journal=is_journal(_STDERR))
    event = "cannot start" if level == "error" else "configuration"
    return render(level, {"component": "main", "event": event, "detail": text})
