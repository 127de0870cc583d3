"""Strict syntax of HTTP/1 requests (RFC 9112, RFC 9110 section 5).

The parser behind it, h11, is lenient where the RFCs allow it: bare LF as line end, folded headers,
a repeated Content-Length, Transfer-Encoding together with Content-Length. A web server in front may
interpret any of these differently, and then the two disagree on where a request ends (request
smuggling). This module refuses each of them before h11 sees it.

What a server has to accept and h11 does not, it rewrites: a target in absolute form, another minor
version, empty lines before a request, chunk extensions and trailers, which no handler reads.
"""

import re
from collections.abc import Callable
from typing import Final

import h11

# h11 has no public hook between its buffer and its parser; its version is asserted at start.
from h11._receivebuffer import ReceiveBuffer

from relayd.api.server.limits import Limits

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(
    rb"(%b) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN.replace(b"+", b"{1,20}")
)
#: A target in absolute form; user names in it are refused (RFC 9110, 4.2.4).
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]+(?=[/?]|\Z)")
_OUTSIDE_ASCII: Final = re.compile(rb"[\x80-\xff]")
_HEADER: Final = re.compile(rb"(%b):[ \t]*([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*+\r\n"
    % (_TOKEN, _TOKEN, _QUOTED)
)
#: Bytes of such a line, which holds the size of a chunk and extensions that nobody uses.
_CHUNK_LINE_BYTES: Final = 256
_CHUNK_LINE_START: Final = re.compile(rb"[0-9A-Fa-f]{0,16}(?:[ \t;\r]|\Z)")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")

#: Headers that may occur at most once: two readers may understand a repetition differently.
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding")


def check_head(head: bytes, limits: Limits) -> bytes:
    """Check a complete request head, including its last empty line, and return its request line.

    The line returned has the target in origin form and a version that h11 knows.

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
    request_line, version = _check_request_line(request_line)
    _check_framing(_headers(lines), version)
    return request_line


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


def _check_request_line(line: bytes) -> tuple[bytes, bytes]:
    """Return the line in the form that h11 knows, and its version."""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise _refused(400, "bad request line")
    method, target, major, minor = found.groups()
    if major != b"1":
        raise _refused(505, "HTTP version not supported")
    if method == b"CONNECT":
        raise _refused(501, "CONNECT is not implemented")
    version = b"1.0" if minor == b"0" else b"1.1"
    return b"%b %b HTTP/%b" % (method, _path(method, target), version), version


def _path(method: bytes, target: bytes) -> bytes:
    """Return a target in origin form, percent-encoded (RFC 9112, 3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return target
    path = _ABSOLUTE.sub(b"", target, count=1)
    if path != target and not path.startswith(b"/"):
        path = b"/" + path
    if not path.startswith(b"/"):
        raise _refused(400, "bad request target")
    return _OUTSIDE_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], path)


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


def check_trailers(section: bytes, limits: Limits) -> None:
    """Check the lines after the last chunk, including the empty line.

    Raises:
        h11.RemoteProtocolError: they are malformed, or say where the request ends.
    """
    if len(section) > limits.head_bytes:
        raise _refused(431, "trailers too long")
    if set(_SINGLE) & set(_headers(section[:-4].split(b"\r\n"))):
        raise _refused(400, "bad trailer")


class _StrictBuffer(ReceiveBuffer):
    """h11's receive buffer, which returns only checked bytes.

    Args:
        limits: of a request.
        in_body: return whether the head of the current request has been read.
    """

    def __init__(self, limits: Limits, in_body: Callable[[], bool]) -> None:
        super().__init__()
        self._limits = limits
        self._in_body = in_body

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return a request head, or nothing instead of trailers, once it is complete."""
        if self._in_body():
            return self._pass_trailers()
        if empty := _EMPTY_LINES.match(self._data):
            self._extract(empty.end())
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            check_unfinished(self._data, self._limits)
            return None
        line = check_head(bytes(self._data[: end + 4]), self._limits)
        self._data[: self._data.index(b"\r\n")] = line
        return super().maybe_extract_lines()

    def _pass_trailers(self) -> list[bytearray] | None:
        if self._data[:2] != b"\r\n":
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if _BARE_LF.search(self._data):
                    raise _refused(400, "bare LF")
                if len(self._data) > self._limits.head_bytes:
                    raise _refused(431, "trailers too long")
                return None
            check_trailers(bytes(self._data[: end + 4]), self._limits)
            self._extract(end + 2)
        return super().maybe_extract_lines()

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line before a chunk without what follows its hexadecimal size."""
        line = super().maybe_extract_next_line()
        if line is None:
            start = bytes(self._data[: _CHUNK_LINE_BYTES + 1])
            good = _CHUNK_LINE_START.match(start) and not _BARE_LF.search(start)
            if len(start) > _CHUNK_LINE_BYTES or not good:
                raise _refused(400, "bad chunk size")
            return None
        found = _CHUNK_LINE.fullmatch(line) if len(line) <= _CHUNK_LINE_BYTES else None
        if found is None:
            raise _refused(400, "bad chunk size")
        return bytearray(found[1] + b"\r\n")

    def is_next_line_obviously_invalid_request_line(self) -> bool:
        """Return whether what was received cannot begin a request."""
        return self._data[:1] != b"\r" and super().is_next_line_obviously_invalid_request_line()


class StrictConnection(h11.Connection):
    """The server side of h11 that refuses all ambiguous requests."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER)
        self._limits = limits
        self._receive_buffer = _StrictBuffer(limits, self._in_body)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event; what follows the last request is ignored (RFC 9112, 9.6)."""
        if self.their_state is h11.MUST_CLOSE:
            self._receive_buffer = _StrictBuffer(self._limits, self._in_body)
        return super().next_event()

    def _in_body(self) -> bool:
        return self.their_state is h11.SEND_BODY
