"""The form of a log event: a line of text for people, or a JSON document for machines.

Nothing in an event can end its line, move a terminal's cursor or reorder its text, because
unprintable characters are escaped. Long values are truncated and secrets are starred out.
"""

import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from relayd.config.secret import REDACTED, Secret
from relayd.system.printable import ELLIPSIS, escape, printable

#: Method of the logger, event with component and fields → bytes to write.
Render = Callable[[str, MutableMapping[str, Any]], bytes]

#: Characters of a value that are shown; the rest is cut off.
MAX_VALUE: Final = 300
_MAX_EVENT: Final = 1000
_MAX_TRACEBACK_LINES: Final = 200
#: Exception groups in one another: each nursery above a task makes one.
_MAX_GROUPS: Final = 30
_SECRET_WORDS: Final = ("password", "passwd", "secret", "token", "authorization")
#: Method of the logger → level as shown and syslog priority (sd-daemon(3)).
_LEVELS: Final = {
    "trace": ("TRACE", 7),
    "debug": ("DEBUG", 7),
    "info": ("INFO", 6),
    "warning": ("WARN", 4),
    "error": ("ERROR", 3),
    "exception": ("ERROR", 3),
}
#: Keys of an event that are not shown as fields.
_OUTSIDE: Final = frozenset({"event", "component", "exc_info"})
#: Keys of the JSON form that no field may use.
RESERVED: Final = ("time", "level", "component", "event", "traceback")


def text_renderer(*, journal: bool) -> Render:
    """Return a renderer of lines `TIME LEVEL component: event key=value …`.

    A traceback follows as indented lines.

    Args:
        journal: begin each line with its priority, `<3>` to `<7>`, instead of the time, which
            the journal records itself.
    """

    def render(method: str, event: MutableMapping[str, Any]) -> bytes:
        name, priority = _LEVELS[method]
        head = f"<{priority}>" if journal else f"{_now()} "
        component = event.pop("component")
        tail = event.pop("exc_info", None)
        lines = [f"{head}{name:<5} {component}: {shown_text(event)}"]
        indent = f"<{priority}>    " if journal else "    "
        lines.extend(indent + printable(line, _MAX_EVENT) for line in _traceback(tail))
        return ("\n".join(lines) + "\n").encode()

    return render


def json_renderer(*, journal: bool) -> Render:
    """Return a renderer of one JSON object per line, in ASCII: RFC 8259 escapes hide line ends.

    Args:
        journal: begin each line with its priority.
    """

    def render(method: str, event: MutableMapping[str, Any]) -> bytes:
        name, priority = _LEVELS[method]
        document: dict[str, object] = {
            "time": _now(),
            "level": name.lower(),
            "component": event.pop("component"),
            "event": _cut(event.pop("event"), _MAX_EVENT),
        }
        tail = list(_traceback(event.pop("exc_info", None)))
        document.update(_shown(event))
        if tail:
            document["traceback"] = tail
        line = json.dumps(document, ensure_ascii=True).replace("\x7f", "\\u007f")
        return (f"<{priority}>{line}\n" if journal else f"{line}\n").encode()

    return render


def shown_text(event: Mapping[str, Any]) -> str:
    """Return the event and its fields, as `event key=value …`, in one printable line."""
    fields = {key: value for key, value in event.items() if key not in _OUTSIDE}
    shown = (f" {printable(key, MAX_VALUE)}={_quoted(value)}" for key, value in _shown(fields))
    return printable(event["event"], _MAX_EVENT) + "".join(shown)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(fields: Mapping[str, object]) -> Iterator[tuple[str, str | int | float | None]]:
    for key, value in fields.items():
        yield key, REDACTED if _is_secret(key) else _plain(value)


@lru_cache(maxsize=256)
def _is_secret(key: str) -> bool:
    """Return whether the name of a field is that of a secret; there are few names."""
    return any(word in key.lower() for word in _SECRET_WORDS)


def _plain(value: object) -> str | int | float | None:
    """Convert a value to a type that both forms can write."""
    if isinstance(value, str):
        return _cut(value, MAX_VALUE)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else _cut(hex(value), MAX_VALUE)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return _cut(value[: MAX_VALUE + 1].decode("utf-8", "backslashreplace"), MAX_VALUE)
    return REDACTED if isinstance(value, Secret) else _cut(str(value), MAX_VALUE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + ELLIPSIS


def _quoted(value: str | float | None) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    if value.isprintable() and value and not any(char in value for char in ' "=\\'):
        return value
    return '"' + "".join(map(_in_quotes, value)) + '"'


def _in_quotes(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else escape(char)


def _traceback(error: BaseException | None) -> Iterator[str]:
    """Yield the lines of a traceback, or only the first and last ones if it is very long."""
    if error is None:
        return
    whole = traceback.TracebackException.from_exception(error, max_group_depth=_MAX_GROUPS)
    lines = [line for part in whole.format() for line in part.split("\n")]
    lines = [line for line in lines if line]
    half = _MAX_TRACEBACK_LINES // 2
    if len(lines) > _MAX_TRACEBACK_LINES:
        lines = [*lines[:half], f"{len(lines) - 2 * half} lines left out", *lines[-half:]]
    yield from lines
