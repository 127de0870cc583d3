"""The reason file next to each refused file: one line of JSON for operators and for `requeue`."""

import contextlib
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from relayd.errors import Reason, Refused
from relayd.runlog.filename import queue_id

SUFFIX: Final = ".reason"
#: Longest file name in bytes, NAME_MAX of Linux.
NAME_MAX: Final = 255
#: A reason file is far smaller; relayd wrote nothing that is larger.
_LARGEST: Final = 65_536


class ReasonRecord(msgspec.Struct, frozen=True):
    """Why a file was refused.

    Attributes:
        name: its original base name, as decoded by `os.fsdecode`.
        queue_id: the id it has in the log, here and on relays.
        reason: class of the fault.
        detail: one line for the operator.
        node: node id of its name, "" if unknown.
        time: when it was refused, RFC 3339 in UTC.
        trust: token of what it was judged by at that time, the trust in the node or the tables of
            the database; if it has changed, the file may be accepted.
    """

    name: str
    queue_id: str
    reason: Reason
    detail: str
    node: str
    time: str
    trust: str


def make_record(name: str, refused: Refused, *, node_id: str, trust: str) -> ReasonRecord:
    """Return the record of a file that is refused now."""
    return ReasonRecord(
        name=name,
        queue_id=queue_id(name),
        reason=refused.reason,
        detail=refused.detail,
        node=node_id,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        trust=trust,
    )


def reason_path(path: Path) -> Path:
    """Return the path of the reason of a file in `failed`: its name with `.reason`.

    A name too long for that is cut and completed with a part of its SHA-256.
    """
    return path.with_name(fit_name(path.name, SUFFIX))


def fit_name(name: str, suffix: str) -> str:
    """Return `name` + `suffix`, shortened in the middle to the maximum length of a file name."""
    raw = os.fsencode(name)
    tail = os.fsencode(suffix)
    if len(raw) + len(tail) > NAME_MAX:
        mark = f"~{hashlib.sha256(raw).hexdigest()[:16]}".encode()
        raw = raw[: NAME_MAX - len(tail) - len(mark)] + mark
    return os.fsdecode(raw + tail)


def write_reason(path: Path, record: ReasonRecord) -> None:
    """Write a reason file; the caller syncs it before it gets its name.

    Names that are not UTF-8 are written with escapes, so the file is ASCII.

    Raises:
        OSError: it cannot be written; no part of it is left behind.
    """
    line = json.dumps(msgspec.to_builtins(record)) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123  the flags matter
            file.write(line)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def read_reason(path: Path) -> ReasonRecord | None:
    """Return the record in a reason file; None if it is missing or was not written by relayd.

    Raises:
        OSError: it exists but cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:  # noqa: PTH123  the flags matter
        content = file.read(_LARGEST)
    try:
        return msgspec.convert(json.loads(content), ReasonRecord)
    except (ValueError, RecursionError):  # msgspec's error is a ValueError
        return None
