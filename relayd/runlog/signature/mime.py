"""The outer form of a signed run log: two parts between boundaries (RFC 1847, RFC 8551, 3.5.3).

The forms that agents, mail tools and proxies write are accepted as far as OpenSSL accepts them and
nothing is ambiguous. A more lenient reader might see other parts in a file than OpenSSL does; no
input is accepted by both and understood differently.
"""

import binascii
import re
from typing import Final, NamedTuple

from relayd.runlog.signature.headers import HeaderError, Headers, read_headers

#: The usual note before the first part, or none. OpenSSL skips any text, but nobody signed that.
_PREAMBLE: Final = re.compile(
    rb"(?:\r?\n)*"
    rb"(?:This is (?:an S/MIME signed message|a cryptographically signed message in MIME format\.|"
    rb"a multi-part message in MIME format\.)(?:\r?\n)+)?"
)
#: One character in quotes is none for OpenSSL.
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,69}[0-9A-Za-z'()+_,./:=?-]")
_BOUNDARY_END: Final = re.compile(rb"[ \t]*\r?\n")
#: The beginning of a header.
_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9-]*(?::|\Z)")
_SIGNATURE_TYPES: Final = (b"application/x-pkcs7-signature", b"application/pkcs7-signature")
_SIGNED: Final = b"multipart/signed"
_TEXT: Final = b"text/plain"
#: Encodings that leave a text as it is.
_IDENTITY: Final = (b"", b"7bit", b"8bit", b"binary")
_TEXT_HEADER: Final = b"Content-Type: text/plain\r\n\r\n"
#: Headers written by agents are far shorter.
_MAX_HEADER: Final = 1024
#: Empty lines after the closing boundary.
_MAX_EPILOGUE: Final = 64

#: Maximum size of a signature in base64; one with RSA-4096 takes 1.3 kB.
_MAX_SIGNATURE: Final = 65536
#: Longest line in base64: RFC 2045, 6.8 allows 76 characters, and OpenSSL writes 64; some libraries
#: write a single line, which OpenSSL reads up to its buffer.
_BASE64_WIDTH: Final = 1000

#: OpenSSL reads lines into a buffer of 1024 bytes, including NUL, and treats each piece as a line.
_PIECE: Final = 1023
#: Line ends are made canonical in stretches of about this size: while a stretch is processed, its
#: lines are separate objects of about 50 bytes each.
_STRETCH: Final = 65536


class MimeError(ValueError):
    """The message is not a signed run log.

    Attributes:
        maybe_unfinished: whether it may be the beginning of a message.
    """

    def __init__(self, detail: str, *, maybe_unfinished: bool = False) -> None:
        super().__init__(detail)
        self.maybe_unfinished = maybe_unfinished


class Parts(NamedTuple):
    """The two parts of a message.

    Attributes:
        signed: the first part in canonical form, including its header; the digest covers this.
        signature: the second part, decoded.
        micalg: name of the digest in the header; empty if it gives none.
    """

    signed: bytes
    signature: bytes
    micalg: str


def split(message: bytes) -> Parts:
    """Split a message into its parts.

    Raises:
        MimeError: any deviation from the form that agents write; one line.
    """
    try:
        header = read_headers(message, 0)
    except HeaderError as error:
        raise _not_a_header(message, str(error)) from error
    boundary = _boundary(header)
    separator = b"--" + boundary
    closing = b"\n" + separator + b"--"
    try:
        start = _after_preamble(message, header.end, separator)
        signed, signature_at = _first_part(message, start, separator)
        signature = _second_part(message, signature_at, closing)
    except MimeError as error:
        error.maybe_unfinished = message.find(closing, header.end) < 0
        raise
    if b"\0" in message:
        raise MimeError("contains a NUL character, which OpenSSL versions treat differently")
    micalg = header.parameters.get(b"micalg", b"").lower()
    return Parts(canonical(signed), signature, micalg.decode("ascii"))


def _after_preamble(message: bytes, at: int, separator: bytes) -> int:
    preamble = _PREAMBLE.match(message, at)
    start = preamble.end() if preamble else at
    if not message.startswith(separator, start):
        raise MimeError("text before the first part")
    return start + len(separator)


def _boundary(header: Headers) -> bytes:
    if header.content_type != _SIGNED:
        raise MimeError(f"not signed: it is {header.content_type.decode()!r}")
    if header.encoding not in _IDENTITY:
        raise MimeError("the message as a whole is encoded")
    if header.parameters.get(b"protocol", _SIGNATURE_TYPES[0]).lower() not in _SIGNATURE_TYPES:
        raise MimeError("the protocol of the signature is not PKCS #7")
    boundary = header.parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise MimeError("no boundary, or none that can be read in one way only")
    return boundary


def text_of(signed: bytes) -> bytes:
    """Return the text of a first part without its header, `text/plain`.

    Raises:
        MimeError: it has another header.
    """
    if signed.startswith(_TEXT_HEADER):
        return signed[len(_TEXT_HEADER) :]
    try:
        header = read_headers(signed, 0)
    except HeaderError as error:
        raise MimeError(f"the signed part: {error}") from error
    if header.content_type != _TEXT or header.encoding not in _IDENTITY:
        raise MimeError("the signed part does not begin with the header of text/plain")
    return signed[header.end :]


def add_text_header(text: bytes) -> bytes:
    """Return the first part in canonical form for this text: the inverse of `text_of`."""
    return _TEXT_HEADER + canonical(text)


def canonical(part: bytes) -> bytes:
    r"""Return the form of a part that the digest covers, as `multi_split` of OpenSSL makes it.

    All CR at the end of each line, and of each piece of 1023 bytes of a longer line, are dropped;
    then the lines are joined by CRLF. A CR within a line stays.

    Args:
        part: the part without its last LF, which belongs to the boundary.
    """
    stretches = []
    at = 0
    while (cut := part.find(b"\n", at + _STRETCH)) >= 0:
        stretches.append(_canonical_lines(part[at:cut].split(b"\n")))
        at = cut + 1
    stretches.append(_canonical_lines(part[at:].split(b"\n")))
    return b"\r\n".join(stretches)


def _canonical_lines(lines: list[bytes]) -> bytes:
    if max(map(len, lines)) < _PIECE:
        return b"\r\n".join([line.rstrip(b"\r") for line in lines])
    return b"\r\n".join([_canonical_line(line) for line in lines])


def _canonical_line(line: bytes) -> bytes:
    line += b"\n"
    pieces = (line[at : at + _PIECE] for at in range(0, len(line), _PIECE))
    return b"".join([piece.rstrip(b"\r\n") for piece in pieces])


def _not_a_header(message: bytes, detail: str) -> MimeError:
    head = message[:_MAX_HEADER]
    if not _NAME.match(head):
        return MimeError("not signed: it does not begin with the header of an S/MIME message")
    boundary = head.find(b"\n--")
    cut = len(message) < _MAX_HEADER and (boundary < 0 or b"\n" not in head[boundary + 1 :])
    return MimeError(f"the header is not that of a signed run log: {detail}", maybe_unfinished=cut)


def _first_part(message: bytes, at: int, separator: bytes) -> tuple[bytes, int]:
    """Return the first part without its last LF, and where its separator ends.

    The separator is searched for anywhere, because OpenSSL recognizes a boundary at the beginning
    of each piece of a long line, and where it cuts such a line depends on its version.
    """
    begin = _BOUNDARY_END.match(message, at)
    if begin is None:
        raise MimeError("text behind a boundary")
    at = begin.end()
    end = message.find(separator, at)
    if end <= at:
        raise MimeError("no second part")
    if message[end - 1 : end] != b"\n":
        raise MimeError("the boundary appears within a line")
    return message[at : end - 1], end + len(separator)


def _second_part(message: bytes, at: int, closing: bytes) -> bytes:
    """Return the signature in the part that begins at `at`, after the separator."""
    begin = _BOUNDARY_END.match(message, at)
    if begin is None:
        raise MimeError("text behind a boundary, or no signature")
    try:
        header = read_headers(message, begin.end())
    except HeaderError as error:
        raise MimeError(f"the second part: {error}") from error
    if header.content_type not in _SIGNATURE_TYPES or header.encoding != b"base64":
        raise MimeError("the second part does not have the header of a signature")
    end = message.find(closing, header.end - 1)
    if end < 0:
        raise MimeError("no closing boundary")
    epilogue = message[end + len(closing) : end + len(closing) + _MAX_EPILOGUE + 1]
    if epilogue.strip() or len(epilogue) > _MAX_EPILOGUE:
        raise MimeError("data after the closing boundary")
    if end - header.end > _MAX_SIGNATURE:
        raise MimeError(f"the signature is longer than {_MAX_SIGNATURE} bytes")
    return _decode(message[header.end : end + 1])


def _decode(body: bytes) -> bytes:
    """Decode base64 in lines of the same length, with empty lines only at the end."""
    lines = body.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    width = len(lines[0])
    if not 0 < width <= _BASE64_WIDTH or (len(lines) > 1 and width % 4):
        raise MimeError("the signature is not base64 in lines of up to 1000 characters")
    if any(len(line) != width for line in lines[:-1]) or not 0 < len(lines[-1]) <= width:
        raise MimeError("the signature is not base64 in lines of the same length")
    try:
        return binascii.a2b_base64(b"".join(lines), strict_mode=True)
    except binascii.Error as error:
        raise MimeError("the signature is not base64") from error
