"""Values of this package as JSON documents: points in time become RFC 3339 in UTC."""

import json
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from relayd.system.clock import in_calendar

#: Fields that are points in time, Unix times as values, in any of the values.
_MOMENTS: Final = frozenset(
    {
        "at",
        "begins",
        "database",
        "ends",
        "inventory_at",
        "last_arrival",
        "last_done",
        "last_run",
        "outcome_at",
        "since",
        "started",
        "until",
    }
)

T = TypeVar("T")

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def as_document(value: msgspec.Struct) -> dict[str, Any]:
    """Return a value as a document."""
    document: dict[str, Any] = _shown(msgspec.to_builtins(value))
    return document


def json_line(value: object) -> str:
    """Return a value as one line of compact JSON, as all commands print it.

    It is plain ASCII without control characters, so a terminal obeys nothing in it.
    """
    return _encode(msgspec.to_builtins(value)).replace("\x7f", "\\u007f")


def from_document(document: object, kind: type[T]) -> T:
    """Return the value of a document.

    Raises:
        msgspec.ValidationError: it is not one of this kind.
    """
    try:
        return msgspec.convert(_read(document), kind)
    except ValueError as error:  # of a point in time as well
        raise msgspec.ValidationError(str(error)) from None


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _moment(item)
            if key in _MOMENTS and isinstance(item, float | int)
            else _shown(item)
            for key, item in value.items()
        }
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def _moment(at: float) -> str:
    return datetime.fromtimestamp(in_calendar(at), UTC).isoformat(timespec="milliseconds")


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: datetime.fromisoformat(item).timestamp()
            if key in _MOMENTS and isinstance(item, str)
            else _read(item)
            for key, item in value.items()
        }
    return [_read(item) for item in value] if isinstance(value, list) else value
