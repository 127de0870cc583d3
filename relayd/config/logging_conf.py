"""`logging.conf`: which lines are logged, and how they look."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from relayd.config import values as v
from relayd.config.toml import build, read_table
from relayd.errors import ConfigError
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
#: Commas separate directives, but a node id in braces may hold one.
_PARTS: Final = re.compile(r"(?:[^,{]|\{[^}]*+\}?+)+")


class Directive(NamedTuple):
    """One part of `filter`.

    Attributes:
        component: whose lines it is about, "" for all.
        node: only its lines about this node, "" for all.
        level: lines from this level up are logged.
    """

    component: str
    node: str
    level: int


def parse_filter(text: str) -> tuple[Directive, ...]:
    """Read comma-separated directives.

    Raises:
        ConfigError: one of them is not valid; the text names it.
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
    raise ConfigError(f'expected {_SHAPES}, got "{printable(text, 60)}"')


class LoggingGeneral(msgspec.Struct, frozen=True, kw_only=True):
    """Table `general`."""

    level: Annotated[
        Literal["off", "error", "warn", "info", "debug", "trace"], v.choice(*LEVELS)
    ] = "info"
    filter: v.Text = ""
    format: Annotated[Literal["text", "json"], v.choice("text", "json")] = "text"


class LoggingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `logging.conf`.

    Attributes:
        general: the only table of the file.
        warnings: for the operator, one line each: what was missing or is not known.
    """

    general: LoggingGeneral = LoggingGeneral()
    warnings: tuple[str, ...] = ()

    def directives(self) -> tuple[Directive, ...]:
        """Return the base level, then the parts of `filter`.

        Raises:
            ConfigError: a part of `filter` is not valid.
        """
        base = Directive("", "", LEVELS[self.general.level])
        return (base, *parse_filter(self.general.filter))


class _File(msgspec.Struct, frozen=True, kw_only=True):
    general: LoggingGeneral = LoggingGeneral()


def load_logging(directory: Path) -> LoggingSettings:
    """Read and check `logging.conf`; every key, the table and the file itself may be absent.

    A file that cannot be read is a warning: a relay that runs with default logging serves its
    operator better than one that does not run.

    Args:
        directory: the configuration directory.

    Raises:
        ConfigError: the file is not valid (exit code 2).
    """
    path = directory / LOGGING_FILE
    try:
        table = read_table(path)
    except OSError as error:
        text = f"{path}: {error.strerror or error}, default logging is used"
        return LoggingSettings(warnings=(text,))
    file, warnings = build(path, table, _File)
    try:
        parse_filter(file.general.filter)
    except ConfigError as error:
        raise ConfigError(f"{path}: general.filter: {error}") from None
    return LoggingSettings(general=file.general, warnings=tuple(warnings))
