"""Names of run-log files: who uploaded it and when its run was."""

import hashlib
import os
import re
import unicodedata
from typing import Final

from relayd.errors import Reason, Refused
from relayd.runlog.dates import read_date
from relayd.runlog.model import RunLogName
from relayd.system.printable import printable

#: How much of a bad name an operator is shown; file systems allow 255 bytes.
_SHOWN: Final = 200

_DATE: Final = (
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt])"
    r"(?P<time>[0-9]{2}[:_][0-9]{2}[:_][0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}[:_][0-9]{2}))"
)
_TAIL: Final = r"\.log(?:\.(?P<archive>gz|zip))?"

#: Agents up to 8.0; those of 8.1 write the other one, and some went back to this one.
_DATE_FIRST: Final = re.compile(f"{_DATE}@(?P<node>.+){_TAIL}")
_NODE_FIRST: Final = re.compile(f"(?P<node>[^_]+)_{_DATE}{_TAIL}")


def parse_name(name: str) -> RunLogName | Refused:
    """Read `DATETIME@NODE.log` or `NODE_DATETIME.log`, with `.gz` or `.zip` behind or without.

    DATETIME is RFC 3339; `_` may stand for its colons, as Windows knows no colon in a name. A
    node id is anything without control characters; in the second form without `_` too.

    Args:
        name: base name, bytes that are not UTF-8 as `os.fsdecode` gives them.

    Returns:
        The name's parts, the date with colons and a numeric offset; or `Refused(BAD_NAME)`.
    """
    if not _is_text(name):
        return _bad(name, "has characters that are not text")
    match = _DATE_FIRST.fullmatch(name) or _NODE_FIRST.fullmatch(name)
    if match is None:
        return _bad(name, "is neither DATETIME@NODE.log nor NODE_DATETIME.log (.gz, .zip)")
    date = read_date((match["day"] + match["time"].replace("_", ":")).encode())
    if date is None:
        return _bad(name, "has a date that does not exist")
    return RunLogName(match["node"], date.decode(), match["archive"] or "")


def queue_id(name: str) -> str:
    """Return the id that follows a file from relay to relay: half of the SHA-256 of its base name.

    Args:
        name: base name, as `os.fsdecode` gives it.

    Returns:
        32 upper-case hexadecimal digits.
    """
    return hashlib.sha256(os.fsencode(name)).digest()[:16].hex().upper()


def _is_text(name: str) -> bool:
    """No control characters, no bytes that are not UTF-8, and no path."""
    return "/" not in name and not any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)


def _bad(name: str, fault: str) -> Refused:
    return Refused(Reason.BAD_NAME, f"name {fault}: {printable(name, _SHOWN)}")
