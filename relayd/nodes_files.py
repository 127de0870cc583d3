"""The two file formats of the nodes data, taken apart piece by piece.

Decoding a whole file in one C call would hold the interpreter lock, and with it the event loop,
for as long as the call takes: a tenth of a second with 50,000 nodes. Here each call handles one
node or one certificate.
"""

import binascii
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Final

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"

#: A longer line comes in several pieces.
_LINE_SIZE: Final = 4096

#: Lines of one certificate; one of RSA-4096 has 32.
_MAX_LINES: Final = 1024


def members(text: str) -> Iterator[tuple[str, object]]:
    """Takes a JSON document that is one object (RFC 8259) apart.

    Args:
        text: the whole document.

    Yields:
        Key and value of each member, in their order; keys of this object may come twice.

    Raises:
        ValueError: it is not such a document, or an object inside has a key twice; the text tells
            line and column of a syntax error.
        RecursionError: nested too deeply.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    position = _expect(text, 0, "{")
    more = not text.startswith("}", position)
    while more:
        if not text.startswith('"', position):
            raise json.JSONDecodeError("Expecting a key in double quotes", text, position)
        key, position = decoder.raw_decode(text, position)
        value, position = decoder.raw_decode(text, _expect(text, position, ":"))
        yield key, value
        position = _skip_space(text, position)
        more = text.startswith(",", position)
        if more:
            position = _expect(text, position, ",")
    if _expect(text, position, "}") != len(text):
        raise json.JSONDecodeError("Extra data", text, position + 1)


def pem_blocks(file: BinaryIO) -> Iterator[tuple[int, bytes | str]]:
    """Finds the certificates of a PEM file (RFC 7468); text around them is passed over.

    Args:
        file: open for reading; only a small part of it is in memory at a time.

    Yields:
        Number of the line where a certificate begins, and its DER, or, as `str`, what is wrong
        with it.

    Raises:
        ValueError: the end of the file is missing: its last certificate is not finished.
    """
    begin = 0
    body: list[bytes] | None = None
    line = b""
    for number, line in enumerate(iter(partial(file.readline, _LINE_SIZE), b""), 1):
        marker = line.strip() if line.startswith(b"-----") else b""
        if marker == _BEGIN:
            if body is not None:
                yield begin, "it has no end line"
            begin, body = number, []
        elif body is None:
            if marker.startswith(b"-----BEGIN "):
                yield number, f"unknown kind: {marker[:80].decode('latin-1')!a}"
        elif marker == _END:
            yield begin, _decode(body)
            body = None
        elif len(body) <= _MAX_LINES:
            body.append(line)
    if body is not None:
        raise ValueError(f"line {begin}: cut off within this certificate")
    if line.startswith(b"-") and not line.endswith(b"\n") and line.strip() != _END:
        raise ValueError("cut off within its last line")


def _decode(body: list[bytes]) -> bytes | str:
    """Decodes the lines of one certificate; a `str` tells what is wrong."""
    if len(body) > _MAX_LINES:
        return "it is too long"
    try:
        der = binascii.a2b_base64(b"".join(body).translate(None, b" \t\r\n"), strict_mode=True)
    except binascii.Error as error:
        return f"not base64: {error}"
    return der or "it is empty"


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Builds an object inside the document; which one of two values counts is nobody's guess."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"an object has a key twice: {ascii(pairs)[:200]}")
    return value


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _expect(text: str, position: int, token: str) -> int:
    """Passes over `token` and the white space around it; returns where the next thing begins."""
    position = _skip_space(text, position)
    if not text.startswith(token, position):
        raise json.JSONDecodeError(f"Expecting {token!r}", text, position)
    return _skip_space(text, position + 1)
