"""PostgreSQL's COPY text format (see "Text Format" under COPY in its manual)."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Final

from relayd.runlog.model import Report

_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def escape(field: bytes) -> bytes:
    """Return a field in which no byte can end the field or the line."""
    return (
        field.replace(b"\\", b"\\\\")
        .replace(b"\t", b"\\t")
        .replace(b"\n", b"\\n")
        .replace(b"\r", b"\\r")
    )


def join(columns: Sequence[bytes]) -> bytes:
    """Return one row without its newline."""
    row = b"\t".join(columns)
    if b"\\" in row or b"\n" in row or b"\r" in row or row.count(b"\t") >= len(columns):
        return b"\t".join(map(escape, columns))
    return row


def read_columns(line: bytes) -> tuple[str, ...]:
    """Return the columns of a row written by `join` or PostgreSQL's COPY TO; it has no NULL."""
    columns = line.rstrip(b"\n").decode().split("\t")
    if b"\\" in line:
        columns = [_ESCAPE.sub(_unescape, column) for column in columns]
    return tuple(columns)


def _unescape(escape: re.Match[str]) -> str:
    return _SPECIAL.get(escape[1], escape[1])


def read_copy(copy: bytes) -> Iterator[Report]:
    """Yield the rows of `RunLog.copy` as objects.

    Args:
        copy: rows with the columns `model.COLUMNS`, UTF-8, each ended by a newline.
    """
    for line in io.BytesIO(copy):
        date, node, directive, rule, report, component, key, event, message, policy, start = (
            read_columns(line)
        )
        yield Report(
            start_datetime=start,
            rule_id=rule,
            directive_id=directive,
            component=component,
            key_value=key,
            event_type=event,
            msg=message,
            policy=policy,
            node_id=node,
            execution_datetime=date,
            report_id=report,
        )
