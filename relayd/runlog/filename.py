"""Names of run-log files, which give the node and the date of the run."""

import hashlib
import os
import re
import unicodedata
from datetime import datetime
from typing import Final

from relayd.errors import Reason, Refused
from relayd.runlog.dates import read_date
from relayd.runlog.model import RunLogName
from relayd.system.printable import printable

#: Characters of a bad name in a message; file systems allow 255 bytes.
_SHOWN: Final = 200

_DATE: Final = (
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt])"
    r"(?P<time>[0-9]{2}[:_][0-9]{2}[:_][0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}(?:[:_]?[0-9]{2})?))"
)
_TAIL: Final = r"\.log(?:\.(?P<archive>gz|zip))?"

#: Agents up to 8.0 and some later ones; agents of 8.1 use the other form.
_DATE_FIRST: Final = re.compile(f"{_DATE}@(?P<node>.+){_TAIL}")
_NODE_FIRST: Final = re.compile(f"(?P<node>[^_]+)_{_DATE}{_TAIL}")

_INVENTORY: Final = re.compile(
    r"(?:.*-)?(?P<node>root|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\.(?:ocs|xml)[.a-z]*"
)


def parse_name(name: str) -> RunLogName | Refused:
    """Read `DATETIME@NODE.log` or `NODE_DATETIME.log`, optionally followed by `.gz` or `.zip`.

    DATETIME is RFC 3339; `_` may replace its colons, because Windows allows no colon in a name. A
    node id is any text without control characters; in the second form also without `_`.

    Args:
        name: base name; bytes that are not UTF-8 are decoded as by `os.fsdecode`.

    Returns:
        The parts of the name, the date with colons and a numeric offset; or `Refused(BAD_NAME)`.
    """
    if not _is_text(name):
        return _bad(name, "contains characters that are not text")
    match = _DATE_FIRST.fullmatch(name) or _NODE_FIRST.fullmatch(name)
    if match is None:
        return _bad(name, "is neither DATETIME@NODE.log nor NODE_DATETIME.log (.gz, .zip)")
    date = read_date((match["day"] + match["time"].replace("_", ":")).encode())
    if date is None:
        return _bad(name, "contains a date that does not exist")
    return RunLogName(match["node"], date.decode(), match["archive"] or "")


def run_of(name: str) -> tuple[str, float] | None:
    """Return node and Unix time of the run in a name, None if it is not named like a run log.

    This is quick, because it is called for each file of a listing; `parse_name` decides whether the
    name is valid.
    """
    stem = name[: name.rfind(".log")]
    date, at, node = stem.partition("@")
    if not at:
        node, _, date = stem.partition("_")
    if not node:
        return None
    try:
        return node, datetime.fromisoformat(date.replace("_", ":")).timestamp()
    except (ValueError, OverflowError):
        return None


def inventory_node(name: str) -> str:
    """Return the node in the name of an inventory or its signature, "" if there is none.

    Agents name them `HOSTNAME-NODE.ocs` or `NODE.ocs`, with `.gz`, `.sign` or both.
    """
    match = _INVENTORY.fullmatch(name)
    return match["node"].lower() if match else ""


def queue_id(name: str) -> str:
    """Return the id of a file on all relays on its way: half of the SHA-256 of its base name.

    Args:
        name: base name, decoded by `os.fsdecode`.

    Returns:
        32 upper-case hexadecimal digits.
    """
    return hashlib.sha256(os.fsencode(name)).digest()[:16].hex().upper()


def _is_text(name: str) -> bool:
    """Return whether a name is not a path, valid UTF-8 and free of control characters."""
    if name.isascii():  # as almost always, and quickly seen
        return "/" not in name and name.isprintable()
    return "/" not in name and not any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)


def _bad(name: str, fault: str) -> Refused:
    return Refused(Reason.BAD_NAME, f"name {fault}: {printable(name, _SHOWN)}")
