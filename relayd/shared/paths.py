"""Paths and names in a request, taken apart before any of it comes near a file system.

What the HTTP server decodes by itself is not used: it turns `%2f` into a separator and accepts any
bytes. Here a path is split first and decoded then, once.
"""

import re
from typing import Final

#: Bytes of one name and of a whole path, the limits of Linux (limits.h).
MAX_NAME: Final = 255
MAX_PATH: Final = 4095

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPES: Final = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*")
_ID: Final = re.compile(r"[A-Za-z0-9\-_.]+")
_METADATA: Final = ".metadata"


class PathError(ValueError):
    """The path of a request cannot be the path of a file; the text says why."""


def split_path(raw: bytes) -> tuple[str, ...]:
    """Take the path of a request apart.

    Args:
        raw: as it was sent, percent-encoded (RFC 3986, 2.1), without slash at its start.

    Returns:
        Decoded names, at least one. None of them is empty, `.` or `..`, or holds a slash, a
        backslash or a control character.

    Raises:
        PathError: it is anything else.
    """
    if len(raw) > MAX_PATH:
        raise PathError("too long")
    return tuple(_name(part) for part in raw.split(b"/"))


def _name(raw: bytes) -> str:
    if _ESCAPES.fullmatch(raw) is None:
        raise PathError("% without two hexadecimal digits")
    data = _ENCODED.sub(lambda found: bytes.fromhex(found[1].decode()), raw)
    if not data or data in (b".", b".."):
        raise PathError("empty name, or one that leads elsewhere")
    if len(data) > MAX_NAME:
        raise PathError("name too long")
    try:
        name = data.decode()
    except UnicodeDecodeError:
        raise PathError("not UTF-8") from None
    if any(char in "/\\\x7f" or char < " " for char in name):
        raise PathError("separator or control character in a name")
    return name


def check_ids(raw: bytes) -> tuple[str, str, str]:
    """Take the path of a shared file apart.

    Args:
        raw: `TARGET/SOURCE/FILE` as it was sent.

    Returns:
        Id of the node it is for, id of the node it comes from, id of the file.

    Raises:
        PathError: these are not three ids of letters, digits, `-`, `_` and `.`; or one of them is
            `.` or `..`; or a file with this id and its metadata would not have a name each.
    """
    ids = split_path(raw)
    if len(ids) != 3 or not all(_ID.fullmatch(part) for part in ids):
        raise PathError("not three ids")
    target, source, file = ids
    if file.lower().endswith(_METADATA):
        raise PathError(f"the file's id ends in {_METADATA}")
    if len(file + _METADATA) > MAX_NAME:
        raise PathError("the file's id is too long")
    return target, source, file
