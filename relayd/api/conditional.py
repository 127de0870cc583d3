"""Conditional and range requests (RFC 9110, sections 13 and 14), decided without I/O.

Not with Werkzeug's functions, which answer 4 of 17 typical requests differently (measured by
`benchmarks/libraries.py`): unquoted tags match, weak ones match If-Range, and neither the suffix 0
nor one longer than the file has the answer of the RFC.
"""

import os
import re
from dataclasses import dataclass
from typing import Final

from werkzeug.datastructures import Headers
from werkzeug.http import http_date, parse_date

_TAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Version:
    """What distinguishes one state of a file from another.

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
        """Return the version of a file from its `stat` result."""
        tag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        return cls(tag, int(status.st_mtime), status.st_size)

    @property
    def last_modified(self) -> str:
        """Value of the header `Last-Modified`."""
        return http_date(self.modified)


def precondition(headers: Headers, version: Version) -> int:
    """Evaluate the conditions of a GET or HEAD request (RFC 9110, 13.2.2).

    Args:
        headers: of the request.
        version: of the file.

    Returns:
        200 to proceed, 304 not modified, or 412 precondition failed.
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
    """Return the part of a file that a GET request asks for (RFC 9110, 14.2).

    Several ranges in one request, units other than bytes and a range of another version are
    ignored, as the RFC allows.

    Args:
        headers: of the request.
        version: of the file.

    Returns:
        Offsets of the bytes to send; empty if there are none (416); None for the whole file.
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
    """Return whether `If-Range` is absent or matches exactly this version."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == version.etag
    return if_range == version.last_modified


def _is_later(version: Version, date: str | None) -> bool | None:
    """Return whether the file was modified after a date; None if the date is invalid."""
    parsed = parse_date(date)
    return None if parsed is None else version.modified > parsed.timestamp()


def _matches(condition: str, etag: str, *, weakly: bool) -> bool:
    if condition.strip() == "*":
        return True
    tags = _TAG.findall(condition)
    if weakly:
        tags = [tag.removeprefix("W/") for tag in tags]
    return etag in tags
