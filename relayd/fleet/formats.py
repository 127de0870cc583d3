"""Incremental parsers for the two file formats of the nodes data.

Decoding a whole file in one C call would hold the interpreter lock, and so block the event loop,
for as long as the call takes: a tenth of a second with 50,000 nodes. Here each call handles one
node or one certificate.
"""

import binascii
import json
import re
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO, Final, TextIO, TypeVar

from relayd.system.printable import printable

T = TypeVar("T")

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
#: U+FEFF, with which some editors begin a file in UTF-8.
_MARK: Final = b"\xef\xbb\xbf"

#: Nodes or certificates (25 µs each) between two pauses, and the length of a pause in seconds.
_STEP: Final = 64
_PAUSE: Final = 50e-6

#: Characters of a JSON document that are read at once.
_WINDOW: Final = 64 * 1024

#: A longer line is read in several pieces.
_LINE_SIZE: Final = 4096

#: Lines of one certificate; one of RSA-4096 has 32.
_MAX_LINES: Final = 1024


def in_small_steps(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, letting other threads run after every few of them.

    A computing thread is asked to release the interpreter lock after 5 ms. But that request is
    dropped whenever the thread releases the lock by itself, as reading a file does, and takes it
    again before the waiting thread is awake. Sleeping for a moment does let the event loop run.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % _STEP == 0:
            time.sleep(_PAUSE)


def members(file: TextIO) -> Iterator[tuple[str, object]]:
    """Parse a JSON document that is a single object (RFC 8259).

    Args:
        file: open for reading; only a small part of it is in memory at a time.

    Yields:
        Key and value of each member, in order; keys of this object may be repeated.

    Raises:
        ValueError: it is not such a document, or an object inside repeats a key; the text says
            where a syntax error is.
        RecursionError: the document is nested too deeply.
    """
    document = _Document(file)
    document.skip("{")
    more = not document.has("}")
    while more:
        if not document.has('"'):
            raise document.error("expected a name in double quotes")
        key = str(document.take_value())
        document.skip(":")
        yield key, document.take_value()
        more = document.has(",")
        if more:
            document.skip(",")
    document.skip("}")
    if not document.has(""):
        raise document.error("expected nothing more")


def members_at_once(file: TextIO) -> Iterator[tuple[str, object]]:
    """Parse the same as `members` with all of it in memory, in a third of the time.

    Args:
        file: open for reading; one that can be read again, if what is wrong with it is to be named.

    Returns:
        Key and value of each member, in order.

    Raises:
        ValueError: see `members`; keys of the outer object may not be repeated either.
        RecursionError: the document is nested too deeply.
    """
    if not file.seekable():
        return members(file)
    start = file.tell()
    try:
        document = json.loads(file.read(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):  # `members` says where
        document = None
    if isinstance(document, dict):
        return iter(document.items())
    file.seek(start)
    return members(file)


def pem_blocks(file: BinaryIO) -> Iterator[tuple[int, bytes | str]]:
    """Find the certificates of a PEM file (RFC 7468), skipping any text around them.

    A byte order mark in front of the first line is skipped, too.

    Args:
        file: open for reading; only a small part of it is in memory at a time.

    Yields:
        Number of the line where a certificate begins, and either its DER or a `str` that says what
        is wrong with it.

    Raises:
        ValueError: the file is truncated: its last certificate is incomplete.
    """
    begin = 0
    body: list[bytes] | None = None
    line = b""
    for number, line in enumerate(_lines(file), 1):
        marker = line.strip() if line.startswith(b"-----") else b""
        if marker == _BEGIN:
            if body is not None:
                yield begin, "it has no end line"
            begin, body = number, []
        elif body is None:
            if marker.startswith(b"-----BEGIN "):
                yield number, f"unknown kind: {printable(marker.decode('latin-1'), 80)}"
        elif marker == _END:
            yield begin, _decode(body)
            body = None
        elif len(body) <= _MAX_LINES:
            body.append(line)
    if body is not None:
        raise ValueError(f"line {begin}: cut off within this certificate")
    if line.startswith(b"-") and not line.endswith(b"\n") and line.strip() != _END:
        raise ValueError("cut off within its last line")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    rest = iter(partial(file.readline, _LINE_SIZE), b"")
    for line in rest:
        yield line.removeprefix(_MARK)
        break
    yield from rest


def _decode(body: list[bytes]) -> bytes | str:
    """Return the DER of one certificate, or a `str` that says what is wrong with its lines."""
    if len(body) > _MAX_LINES:
        return "it is too long"
    try:
        der = binascii.a2b_base64(b"".join(body).translate(None, b" \t\r\n"), strict_mode=True)
    except binascii.Error as error:
        return f"not base64: {error}"
    return der or "it is empty"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a nested object; raise ValueError if it has a key twice, which would be ambiguous."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"an object has a key twice: {printable(str(pairs), 200)}")
    return value


class _Document:
    """A JSON text with a window of it in memory, and a position where the next token begins."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
        self._text = ""
        self._position = 0
        self._ended = False
        self._dropped = 0
        self._dropped_lines = 0

    def has(self, token: str) -> bool:
        """Return whether `token`, one character, comes next; "" means the end."""
        self._skip_space()
        return self._text[self._position : self._position + 1] == token

    def skip(self, token: str) -> None:
        """Skip `token`; raise ValueError if it does not come next."""
        if not self.has(token):
            raise self.error(f"expected {token!r}")
        self._position += 1

    def take_value(self) -> object:
        """Decode the value that comes next."""
        self._skip_space()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self.error(error.msg, error.pos) from None
            else:
                if self._ended or end < len(self._text):  # a number may go on after the window
                    self._position = end
                    return value
            self._read_more()

    def error(self, text: str, position: int | None = None) -> ValueError:
        """Return an error whose text includes the position."""
        position = self._position if position is None else position
        line = self._dropped_lines + self._text.count("\n", 0, position) + 1
        return ValueError(f"line {line}, character {self._dropped + position}: {text}")

    def _skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._position)
            self._position = found.end() if found else self._position
            if self._ended or self._position < len(self._text):
                return
            self._read_more()

    def _read_more(self) -> None:
        """Drop the text already parsed and double the rest, so that long values stay linear."""
        passed, rest = self._text[: self._position], self._text[self._position :]
        self._dropped += len(passed)
        self._dropped_lines += passed.count("\n")
        try:
            more = self._file.read(max(_WINDOW, len(rest)))
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 after this point: {error.reason}") from error
        self._text, self._position, self._ended = rest + more, 0, not more
