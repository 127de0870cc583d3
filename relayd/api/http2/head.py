"""Strict syntax of HTTP/2 requests (RFC 9113, 8.2 and 8.3), as strict as for HTTP/1.

The library behind it checks the order and number of pseudo-headers, forbids the headers of a
connection, and compares the length of the body with Content-Length.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from relayd.api.server.limits import Limits

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}")
_PATH: Final = re.compile(rb"/[!-~\x80-\xff]*")
_OUTSIDE_ASCII: Final = re.compile(rb"[\x80-\xff]")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_AUTHORITY: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_FORBIDDEN: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
#: Bytes that a header would take in HTTP/1 besides its name and value.
_AROUND: Final = 4

Headers = list[tuple[bytes, bytes]]


class HeadError(Exception):
    """A request head that is refused.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request head.

    Attributes:
        method: case-sensitive; a known one in other letters is "UNKNOWN".
        path: as it was sent, percent-encoded.
        query: the same.
        headers: with `host`, without pseudo-headers.
    """

    method: str
    path: bytes
    query: bytes
    headers: Headers


def read_head(sent: Iterable[tuple[bytes, bytes]], limits: Limits) -> Head:
    """Return a request head.

    Args:
        sent: its headers in the order in which they were sent.
        limits: of a request.

    Raises:
        HeadError: it is refused.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    size = 0
    for name, value in sent:
        size += len(name) + len(value) + _AROUND
        if name.startswith(b":"):
            pseudo[name] = value
        else:
            headers.append((name, value))
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if len(target) > limits.request_line_bytes:
        raise HeadError(414, "path too long")
    if size > limits.head_bytes or len(headers) > limits.headers:
        raise HeadError(431, "request head too long")
    if method == b"CONNECT" or b":protocol" in pseudo:
        raise HeadError(501, "CONNECT is not implemented")
    if not _METHOD.fullmatch(method):
        raise HeadError(400, "bad method")
    _check(headers)
    path, _, query = _path(method, target).partition(b"?")
    text = method.decode("ascii")
    return Head(text if text.isupper() else "UNKNOWN", path, query, _with_host(headers, pseudo))


def _path(method: bytes, target: bytes) -> bytes:
    if target == b"*" and method == b"OPTIONS":
        return target
    if not _PATH.fullmatch(target):
        raise HeadError(400, "bad path")
    return _OUTSIDE_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], target)


def _check(headers: Headers) -> None:
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise HeadError(400, "bad Content-Length")
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name in _FORBIDDEN:
            raise HeadError(400, "bad header")


def _with_host(headers: Headers, pseudo: dict[bytes, bytes]) -> Headers:
    """Return the headers with exactly one `host`, which comes first."""
    hosts = [value for name, value in headers if name == b"host"]
    if b":authority" in pseudo:
        hosts.insert(0, pseudo[b":authority"])
    if not hosts or len(set(hosts)) > 1 or not _AUTHORITY.fullmatch(hosts[0]):
        raise HeadError(400, "bad host")
    return [(b"host", hosts[0]), *(pair for pair in headers if pair[0] != b"host")]
