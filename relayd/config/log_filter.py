"""`general.filter` of `logging.conf`: comma-separated directives, in the form of `rudder-relayd`.

    database=trace                      lines of a component
    [database{node=root}]=debug         … about one node
    [node{node_id="root"}]=trace        all lines about one node
    [report{queue_id=7F21…}]=debug      all lines about one file
    debug                               everything

The last but one are spans of `rudder-relayd`. A directive that cannot be used is a problem of its
own and leaves the others in force.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from relayd.config.toml import close_word
from relayd.config.values import meant_word
from relayd.system.printable import printable

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
#: `rudder-relayd` also takes a number.
_NUMBERS: Final = dict(zip("012345", LEVELS.values(), strict=True))

COMPONENTS: Final = (
    "access",
    "api",
    "cleanup",
    "config",
    "control",
    "database",
    "disposal",
    "examine",
    "main",
    "nodes",
    "remote_run",
    "shared_files",
    "upstream",
    "watch",
)
#: Libraries that log, by the first part of their loggers' names; a directive may name one.
LIBRARIES: Final = frozenset(
    {
        "asyncio",
        "asyncpg",
        "h11",
        "httpcore2",
        "httpx2",
        "hypercorn",
        "quart",
        "quart_trio",
        "trio_asyncio",
    }
)
#: In place of a node or a queue id: any.
ANY: Final = "\0"

#: Spans of `rudder-relayd` that concern one file or node → the field by which lines are about it.
_SPANS: Final = {"node": "node", "report": "queue_id", "inventory": "queue_id"}
_FIELDS: Final = {"node": "node", "node_id": "node", "queue_id": "queue_id"}
#: Names that `rudder-relayd` gives to the whole program.
_PROGRAM: Final = frozenset({"relayd", "rudder_relayd"})
#: Parts of `rudder-relayd` that relayd calls otherwise → its components.
_PARTS_OF: Final = {
    "configuration": ("config",),
    "data": ("nodes",),
    "http_client": ("upstream",),
    "input": ("watch",),
    "inventory": ("watch", "upstream", "disposal", "cleanup"),
    "processing": ("watch", "examine", "upstream", "disposal", "cleanup"),
    "report": ("examine",),
    "reporting": ("watch", "examine", "database", "disposal", "cleanup"),
    "runlog": ("examine",),
    "shared_folder": ("api",),
}
_SHAPES: Final = (
    '"database=trace", "[database{node=root}]=debug" or "[report{queue_id=7F21}]=debug"'
)

#: Commas separate directives, but braces may contain one.
_PARTS: Final = re.compile(r"(?:[^,{]|\{[^}]*+\}|\{)+")
_DIRECTIVE: Final = re.compile(
    r"(?P<target>[A-Za-z0-9_:-]*)\s*"
    r"(?:\[\s*(?P<span>[A-Za-z0-9_-]*)\s*(?:\{(?P<fields>[^{}]*)\})?\s*\])?\s*"
    r"(?:=\s*(?P<level>[A-Za-z0-9]*))?"
)
_FIELD: Final = re.compile(r'\s*([A-Za-z0-9_.]+)\s*(?:=\s*(?:"([^"]*)"|([^"\s]+))\s*)?')


class Directive(NamedTuple):
    """One part of `filter`.

    Attributes:
        component: the component that logs the lines, "" for all.
        node: the node that the lines are about, "" if it does not matter, `ANY` for any.
        level: the lowest level that is logged.
        queue_id: the file that the lines are about, as for `node`.
    """

    component: str
    node: str
    level: int
    queue_id: str = ""


class ParsedFilter(NamedTuple):
    """The directives that can be used, and one line for each that cannot."""

    directives: tuple[Directive, ...]
    problems: tuple[str, ...]


def parse_filter(text: str) -> ParsedFilter:
    """Read comma-separated directives."""
    directives: list[Directive] = []
    problems: list[str] = []
    for part in filter(None, map(str.strip, _PARTS.findall(text))):
        try:
            directives += _read(part)
        except ValueError as error:
            problems.append(f'"{printable(part, 60)}" has no effect: {error}')
    return ParsedFilter(tuple(directives), tuple(problems))


def _read(text: str) -> Iterable[Directive]:
    """Return the directives that a part stands for; raise ValueError if it cannot be used."""
    alone = _level(text)
    if alone is not None:
        return [Directive("", "", alone)]
    found = _DIRECTIVE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected {_SHAPES}")
    word = found["level"]
    level = TRACE if word is None else _level(word)
    if level is None:
        meant = meant_word(word or "", LEVELS)
        hint = f", did you mean {meant}?" if meant else ""
        raise ValueError(f"expected one of the levels {', '.join(LEVELS)}{hint}")
    values = _fields(found["fields"] or "")
    span = (found["span"] or "").replace("-", "_")
    if span in _SPANS:
        values.setdefault(_SPANS[span], ANY)
        span = ""
    return (
        Directive(component, values.get("node", ""), level, values.get("queue_id", ""))
        for component in _both(_components(found["target"]), _components(span))
    )


def _level(word: str) -> int | None:
    return LEVELS.get(word.lower(), _NUMBERS.get(word))


def _components(name: str) -> tuple[str, ...]:
    """Return the components of a name of relayd or of `rudder-relayd`; "" stands for all."""
    first, *parts = name.replace("-", "_").split("::")
    if first in _PROGRAM:
        first = next((part for part in reversed(parts) if _is_known(part)), "")
    if first in _PARTS_OF:
        return _PARTS_OF[first]
    if first and first not in COMPONENTS and first not in LIBRARIES:
        known = (*COMPONENTS, *_SPANS)
        meant = close_word(first, known) or meant_word(first, LEVELS)
        hint = f"did you mean {meant}?" if meant else f"the names are {', '.join(known)}"
        raise ValueError(f"there is no component or span {printable(first, 60)}, {hint}")
    return (first,)


def _is_known(part: str) -> bool:
    return part in COMPONENTS or part in _PARTS_OF


def _both(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return the components that belong to both."""
    if some == ("",):
        return others
    if others == ("",):
        return some
    both = tuple(component for component in some if component in others)
    if not both:
        raise ValueError("no component belongs to both of its names")
    return both


def _fields(text: str) -> dict[str, str]:
    """Read the fields in the braces of a directive: what lines have to be about."""
    values: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        found = _FIELD.fullmatch(part)
        if found is None:
            raise ValueError(f"expected {_SHAPES}")
        name, quoted, plain = found.groups()
        if name not in _FIELDS:
            raise ValueError(f"expected the field node_id or queue_id, got {printable(name, 60)}")
        value = plain if quoted is None else quoted
        values[_FIELDS[name]] = ANY if value in {None, "*", ".*"} else value
    return values
