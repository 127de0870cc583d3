"""`logging.conf`: which lines are logged, and in which format."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from relayd.config import values as v
from relayd.config.toml import build, read_table
from relayd.errors import ConfigWarning, SettingError
from relayd.system.printable import printable

LOGGING_FILE: Final = "logging.conf"

TRACE: Final = 5
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40
OFF: Final = 100

#: The levels by their names in `logging.conf`; the numbers are those of Python's `logging`.
LEVELS: Final = {
    "off": OFF,
    "error": ERROR,
    "warn": WARNING,
    "info": INFO,
    "debug": DEBUG,
    "trace": TRACE,
}
_SHAPES: Final = '"info", "database=trace", "[database]=trace" or "[database{node=root}]=debug"'
_SPAN: Final = re.compile(r'\[([A-Za-z0-9_]*)(?:\{\s*node\s*=\s*"?([^{}"\s]+)"?\s*\})?\]')
_TARGET: Final = re.compile(r"[A-Za-z0-9_:]+")
#: Commas separate directives, but a node id in braces may contain one.
_PARTS: Final = re.compile(r"(?:[^,{]|\{[^}]*+\}?+)+")


class Directive(NamedTuple):
    """One part of `filter`.

    Attributes:
        component: the component that logs the lines, "" for all.
        node: the node that the lines are about, "" for all.
        level: the lowest level that is logged.
    """

    component: str
    node: str
    level: int


def parse_filter(text: str) -> tuple[Directive, ...]:
    """Read comma-separated directives.

    Raises:
        SettingError: one of them is not valid.
    """
    parts = (part.strip() for part in _PARTS.findall(text))
    return tuple(_directive(part) for part in parts if part)


def _directive(text: str) -> Directive:
    target, equals, word = text.rpartition("=")
    target, level = target.strip(), LEVELS.get(word.strip().lower())
    span = _SPAN.fullmatch(target)
    if level is not None and not equals:
        return Directive("", "", level)
    if level is not None and span is not None:
        return Directive(span[1], span[2] or "", level)
    if level is not None and _TARGET.fullmatch(target):
        return Directive(target, "", level)
    raise SettingError("general.filter", _SHAPES, f'"{printable(text, 60)}"')


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
        warnings: an unreadable file or unknown keys.
    """

    general: LoggingGeneral = LoggingGeneral()
    warnings: tuple[ConfigWarning, ...] = ()

    def directives(self) -> tuple[Directive, ...]:
        """Return the base level, then the parts of `filter`.

        Raises:
            SettingError: a part of `filter` is not valid.
        """
        base = Directive("", "", LEVELS[self.general.level])
        return (base, *parse_filter(self.general.filter))


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
        detail = f"{error.strerror or error}, default logging is used"
        return LoggingSettings(
            warnings=(ConfigWarning(kind="unreadable", detail=detail, file=path),)
        )
    file, warnings = build(path, table, _File)
    try:
        parse_filter(file.general.filter)
    except SettingError as error:
        raise SettingError(error.key, error.expected, error.got, file=path) from None
    return LoggingSettings(general=file.general, warnings=tuple(warnings))
