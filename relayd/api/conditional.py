"""Conditional and range requests (RFC 9110, sections 13 and 14), decided without I/O."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from werkzeug.datastructures import Headers
from werkzeug.http import parse_date

_TAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one state of a file from another.

    Attributes:
        etag: strong entity tag, with its quotes.
        modified: last modification, unix time in whole seconds.
        size: bytes.
    """

    etag: str
    modified: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Version":
        """Return the version of the file that a `stat` call told about."""
        tag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        return cls(tag, int(status.st_mtime), status.st_size)

    @property
    def last_modified(self) -> str:
        """Value of the header `Last-Modified`."""
        return format_datetime(datetime.fromtimestamp(self.modified, UTC), usegmt=True)


def precondition(headers: Headers, version: Version) -> int:
    """Evaluate the conditions of a GET or HEAD request (RFC 9110, 13.2.2).

    Args:
        headers: of the request.
        version: of the file.

    Returns:
        200 to go on, 304 not modified, or 412 precondition failed.
    """
    if "If-Match" in headers:
        if not _matches(headers["If-Match"], version.etag, weakly=False):
            return 412
    elif _is_later(version, headers.get("If-Unmodified-Since")) is True:
        return 412
    if "If-None-Match" in headers:
        return 304 if _matches(headers["If-None-Match"], version.etag, weakly=True) else 200
    return 304 if _is_later(version, headers.get("If-Modified-Since")) is False else 200


def wanted_range(headers: Headers, version: Version) -> range | None:
    """Return which part of a file a GET request wants (RFC 9110, 14.2).

    Several ranges in one request, other units than bytes and a range of another version are
    ignored, as it is allowed.

    Args:
        headers: of the request.
        version: of the file.

    Returns:
        Offsets of the bytes to send; empty when there are none (416); None for the whole file.
    """
    found = _RANGE.fullmatch(headers.get("Range", ""))
    if found is None or not _is_of(version, headers.get("If-Range")):
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return range(max(0, version.size - int(suffix)), version.size)
    end = version.size if last is None else min(int(last) + 1, version.size)
    if last is not None and int(last) < int(first):
        return None
    return range(int(first), end)


def _is_of(version: Version, if_range: str | None) -> bool:
    """Return whether `If-Range` is absent, or names exactly this version."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == version.etag
    return if_range == version.last_modified


def _is_later(version: Version, date: str | None) -> bool | None:
    """Return whether the file was modified after a date; None when that is not one."""
    parsed = parse_date(date)
    return None if parsed is None else version.modified > parsed.timestamp()


def _matches(condition: str, etag: str, *, weakly: bool) -> bool:
    if condition.strip() == "*":
        return True
    tags = _TAG.findall(condition)
    if weakly:
        tags = [tag.removeprefix("W/") for tag in tags]
    return etag in tags
