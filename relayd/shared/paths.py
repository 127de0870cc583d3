"""Validation of paths in requests, before any part of them is used in the file system.

The decoding of the HTTP server is not used: it turns `%2f` into a separator and accepts any bytes.
Here a path is split first and then decoded, once.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

#: Bytes of one name and of a whole path, the limits of Linux (limits.h).
MAX_NAME: Final = 255
MAX_PATH: Final = 4095

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPES: Final = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*")
#: Names that lead from a directory to itself.
_HERE: Final = ("", ".")
_ID: Final = re.compile(r"[A-Za-z0-9\-_.]+")
#: What follows the id of a file in the name of its metadata.
METADATA_SUFFIX: Final = ".metadata"


class PathError(ValueError):
    """The path of a request is not a valid file path; the text says why."""


class SharedFileId(NamedTuple):
    """The three ids that identify a shared file.

    Attributes:
        target: id of the node that the file is for.
        source: id of the node that it comes from.
        file: id of the file.
    """

    target: str
    source: str
    file: str


def split_path(raw: bytes) -> tuple[str, ...]:
    """Split the path of a request into names; empty names and `.` are passed over.

    Args:
        raw: the path as it was sent, percent-encoded (RFC 3986, 2.1), without a leading slash.

    Returns:
        Decoded names, at least one. None of them is empty, `.` or `..`, or contains a slash, a
        backslash or a control character.

    Raises:
        PathError: the path is not like that; or it ends in an empty name or `.`, which only the
            path of a directory may.
    """
    names = decoded_names(raw)
    if names[-1] in _HERE:
        raise PathError("the path of a directory")
    return tuple(name for name in names if name not in _HERE)


def decoded_names(raw: bytes) -> list[str]:
    """Return the names of a path, decoded; some may be empty or `.`.

    Raises:
        PathError: one of them can be no name, see `split_path`.
    """
    if len(raw) > MAX_PATH:
        raise PathError("too long")
    return [_name(part) for part in raw.split(b"/")]


def _name(raw: bytes) -> str:
    if _ESCAPES.fullmatch(raw) is None:
        raise PathError("% without two hexadecimal digits")
    data = _ENCODED.sub(lambda found: bytes.fromhex(found[1].decode()), raw)
    if data == b"..":
        raise PathError("..")
    if len(data) > MAX_NAME:
        raise PathError("name too long")
    try:
        name = data.decode()
    except UnicodeDecodeError:
        raise PathError("not UTF-8") from None
    if any(char in "/\\\x7f" or char < " " for char in name):
        raise PathError("separator or control character in a name")
    return name


def directory_of(root: Path, raw: bytes) -> Path:
    """Return a directory in `root`.

    Args:
        root: a directory.
        raw: a single name, percent-encoded.

    Raises:
        PathError: it is not one that leads from `root` to an entry of it.
    """
    (name, *more) = decoded_names(raw)
    if more or name in _HERE:
        raise PathError("not a single name")
    return root / name


def check_ids(raw: bytes) -> SharedFileId:
    """Parse the path of a shared file.

    Args:
        raw: `TARGET/SOURCE/FILE` as it was sent; a slash may follow.

    Raises:
        PathError: these are not three ids of letters, digits, `-`, `_` and `.`; or one of them is
            `.` or `..`; or the file and its metadata would not both have a valid name.
    """
    ids = decoded_names(raw.removesuffix(b"/"))
    if len(ids) != 3 or not all(_ID.fullmatch(part) and part != "." for part in ids):
        raise PathError("not three ids")
    found = SharedFileId(*ids)
    if found.file.lower().endswith(METADATA_SUFFIX):
        raise PathError(f"the file's id ends in {METADATA_SUFFIX}")
    if len(found.file + METADATA_SUFFIX) > MAX_NAME:
        raise PathError("the file's id is too long")
    return found
