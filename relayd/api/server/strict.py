"""Strict syntax of HTTP/1 requests (RFC 9112, RFC 9110 section 5).

The parser behind it, h11, is lenient where the RFCs allow it: bare LF as line end, folded headers,
a repeated Content-Length, Transfer-Encoding together with Content-Length, chunk extensions. A web
server in front may interpret any of these differently, and then the two disagree on where a request
ends (request smuggling). This module refuses each of them before h11 sees it.
"""

import re
from typing import Final

import h11

# h11 has no public hook between its buffer and its parser; its version is asserted at start.
from h11._receivebuffer import ReceiveBuffer

from relayd.api.server.limits import Limits

#: The proxy and relayd's own clients send no form of target but a path (RFC 9112, 3.2.1).
_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,20} (/[!-~]*) HTTP/([0-9]\.[0-9])")
_VERSIONS: Final = (b"1.0", b"1.1")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_CHUNK_LINE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}\r\n")

#: Headers that may occur at most once: two readers may understand a repetition differently.
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding")


def check_head(head: bytes, limits: Limits) -> None:
    """Check a complete request head, including its last empty line.

    Raises:
        h11.RemoteProtocolError: it is refused; `error_status_hint` is the status of the answer.
    """
    request_line, *lines = head[:-4].split(b"\r\n")
    if len(request_line) > limits.request_line_bytes:
        raise _refused(414, "request line too long")
    if len(head) > limits.head_bytes:
        raise _refused(431, "request head too long")
    if len(lines) > limits.headers:
        raise _refused(431, "too many headers")
    version = _check_request_line(request_line)
    _check_framing(_headers(lines), version)


def check_unfinished(start: bytes | bytearray, limits: Limits) -> None:
    """Check the start of a request head, to refuse a bad one without waiting for the rest.

    Raises:
        h11.RemoteProtocolError: it will be refused, whatever follows.
    """
    if _BARE_LF.search(start):
        raise _refused(400, "bare LF")
    line, end, _ = start.partition(b"\r\n")
    if len(line) > limits.request_line_bytes:
        raise _refused(414, "request line too long")
    if end:
        _check_request_line(bytes(line))
    if len(start) > limits.head_bytes:
        raise _refused(431, "request head too long")


def _refused(status: int, why: str) -> h11.RemoteProtocolError:
    return h11.RemoteProtocolError(why, error_status_hint=status)


def _check_request_line(line: bytes) -> bytes:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _refused(400, "bad request line")
    if found[2] not in _VERSIONS:
        raise _refused(505, "HTTP version not supported")
    return found[2]


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the headers by lower-case name; refuse folded and malformed lines."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise _refused(400, "bad header line")
        name = found[1].lower()
        if name in _SINGLE and name in headers:
            raise _refused(400, "repeated header")
        headers[name] = found[2].rstrip(b" \t")
    return headers


def _check_framing(headers: dict[bytes, bytes], version: bytes) -> None:
    """Check that the end of the body is given in one way at most (RFC 9112, 6.1 to 6.3)."""
    length = headers.get(b"content-length")
    coding = headers.get(b"transfer-encoding")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise _refused(400, "bad Content-Length")
    if coding is None:
        return
    if length is not None:
        raise _refused(400, "both Content-Length and Transfer-Encoding")
    if coding.lower() != b"chunked" or version == b"1.0":
        raise _refused(400, "bad Transfer-Encoding")


class _StrictBuffer(ReceiveBuffer):
    """h11's receive buffer, which returns only checked bytes."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return a request head, or the lines after the last chunk, once it is complete.

        Trailers look like a head without request line and are therefore refused; no handler reads
        them.
        """
        if self._data[:2] == b"\r\n":
            return super().maybe_extract_lines()
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            check_unfinished(self._data, self._limits)
            return None
        check_head(bytes(self._data[: end + 4]), self._limits)
        return super().maybe_extract_lines()

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line before a chunk, which holds its hexadecimal size and nothing else."""
        line = super().maybe_extract_next_line()
        if line is None:
            start = bytes(self._data[:18])
            if len(self._data) > 17 or _BARE_LF.search(start):
                raise _refused(400, "bad chunk size")
            return None
        if _CHUNK_LINE.fullmatch(line) is None:
            raise _refused(400, "bad chunk size")
        return line


class StrictConnection(h11.Connection):
    """The server side of h11 that refuses all ambiguous requests."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER)
        self._receive_buffer = _StrictBuffer(limits)
