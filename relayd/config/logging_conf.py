"""`logging.conf`: which lines are logged, and in which format."""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from relayd.config import values as v
from relayd.config.log_filter import LEVELS, Directive, parse_filter
from relayd.config.toml import build, read_table
from relayd.errors import ConfigWarning
from relayd.system.shortage import words_of

LOGGING_FILE: Final = "logging.conf"


class LoggingGeneral(msgspec.Struct, frozen=True, kw_only=True):
    """Table `general`.

    Attributes:
        file_lines: maximum number of lines per second about files that were stored or forwarded.
            The default leaves each file of 50,000 nodes its line (167 per second), and with a
            backlog stays below what systemd's journal takes of one service (10,000 in 30 s).
    """

    level: Annotated[
        Literal["off", "error", "warn", "info", "debug", "trace"], v.choice(*LEVELS)
    ] = "info"
    filter: v.Text = ""
    format: Annotated[Literal["text", "json"], v.choice("text", "json")] = "text"
    file_lines: v.Count = 200


class LoggingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `logging.conf`.

    Attributes:
        general: the only table of the file.
        warnings: an unreadable file, unknown keys, and parts of `filter` without effect.
    """

    general: LoggingGeneral = LoggingGeneral()
    warnings: tuple[ConfigWarning, ...] = ()

    def directives(self) -> tuple[Directive, ...]:
        """Return the base level, then the parts of `filter` that can be used."""
        base = Directive("", "", LEVELS[self.general.level])
        return (base, *parse_filter(self.general.filter).directives)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    general: LoggingGeneral = LoggingGeneral()


def load_logging(directory: Path) -> LoggingSettings:
    """Read and check `logging.conf`; every key, the table and the file itself may be absent.

    An unreadable file is only a warning: a relay with default logging is of more use than one
    that does not run.

    Args:
        directory: the configuration directory.

    Raises:
        ConfigError: the file is not valid (exit code 2).
    """
    path = directory / LOGGING_FILE
    try:
        table = read_table(path)
    except OSError as error:
        detail = f"{words_of(error)}, default logging is used"
        return LoggingSettings(
            warnings=(ConfigWarning(kind="unreadable", detail=detail, file=path),)
        )
    file, warnings = build(path, table, _File)
    key = "general.filter"
    warnings += (
        ConfigWarning(kind="log_filter", detail=f"{key}: {problem}", key=key, file=path)
        for problem in parse_filter(file.general.filter).problems
    )
    return LoggingSettings(general=file.general, warnings=tuple(warnings))
