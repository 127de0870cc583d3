"""The reason file beside each refused file: one line of JSON for operators and for `requeue`."""

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
#: A reason file is far smaller; anything larger is not ours.
_LARGEST: Final = 65_536


class ReasonRecord(msgspec.Struct, frozen=True):
    """Why a file was refused.

    Attributes:
        name: its original base name, as `os.fsdecode` gives it.
        queue_id: the id it has in the log, here and on relays.
        reason: class of the fault.
        detail: one line for the operator.
        node: node id of its name, "" when unknown.
        time: when it was refused, RFC 3339 in UTC.
        trust: token of what was known about the node then; when it differs now, the file may
            pass.
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
    """Return where the reason of a file in `failed` is kept: its name with `.reason`.

    A name too long for that is cut and gets a part of its SHA-256 instead.
    """
    return path.with_name(fit_name(path.name, SUFFIX))


def fit_name(name: str, suffix: str) -> str:
    """`name` + `suffix`, shortened in the middle to what a file name may be long."""
    raw = os.fsencode(name)
    tail = os.fsencode(suffix)
    if len(raw) + len(tail) > NAME_MAX:
        mark = f"~{hashlib.sha256(raw).hexdigest()[:16]}".encode()
        raw = raw[: NAME_MAX - len(tail) - len(mark)] + mark
    return os.fsdecode(raw + tail)


def write_reason(path: Path, record: ReasonRecord) -> None:
    """Write a reason file durably: after a power loss it is whole or not there.

    Names that are no UTF-8 are written with escapes, so the file is ASCII.

    Raises:
        OSError: it could not be written; no part of it is left.
    """
    line = json.dumps(msgspec.to_builtins(record)) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123  the flags matter
            file.write(line)
            file.flush()
            os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def read_reason(path: Path) -> ReasonRecord | None:
    """Return the record in a reason file; None when there is none or it is not one of ours.

    Raises:
        OSError: it cannot be read for another reason than that it is missing.
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
