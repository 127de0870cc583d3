"""The outer form of a signed run log: two parts between boundaries (RFC 1847, RFC 8551, 3.5.3).

Only the forms that `openssl smime -sign` and Python's `cryptography` write are accepted. A more
lenient reader might see other parts in a file than OpenSSL does; no input is accepted by both and
understood differently.
"""

import binascii
import re
from typing import Final, NamedTuple

_HEADER: Final = re.compile(
    rb"MIME-Version: 1\.0\r?\n"
    rb'Content-Type: multipart/signed; protocol="application/(?:x-)?pkcs7-signature";'
    rb' micalg="([a-z0-9-]{1,16})"; boundary="([0-9A-Za-z=_.-]{1,70})"\r?\n'
    rb"\r?\n"
    rb"This is an S/MIME signed message\r?\n"
    rb"\r?\n"
    rb"--\2\r?\n"
)
_BEGINNING: Final = b"MIME-Version: 1.0"
#: Headers written by agents are far shorter.
_MAX_HEADER: Final = 1024
_SIGNATURE_HEADER: Final = re.compile(
    rb"\r?\n"
    rb'Content-Type: application/(?:x-)?pkcs7-signature; name="smime\.p7s"\r?\n'
    rb"Content-Transfer-Encoding: base64\r?\n"
    rb'Content-Disposition: attachment; filename="smime\.p7s"\r?\n'
    rb"\r?\n"
)
_TEXT_HEADER: Final = b"Content-Type: text/plain\r\n\r\n"
_AFTERWARDS: Final = (b"\n\n", b"\r\n", b"\n", b"\r\n\r\n", b"")

#: Maximum size of a signature in base64; one with RSA-4096 takes 1.3 kB.
_MAX_SIGNATURE: Final = 65536
_BASE64_WIDTH: Final = 64

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
        micalg: name of the digest in the header.
    """

    signed: bytes
    signature: bytes
    micalg: str


def split(message: bytes) -> Parts:
    """Split a message into its parts.

    Raises:
        MimeError: any deviation from the form that agents write; one line.
    """
    header = _HEADER.match(message)
    if header is None:
        raise _not_a_header(message)
    micalg, boundary = header.groups()
    separator = b"--" + boundary
    closing = b"\n" + separator + b"--"
    try:
        signed, signature_at = _first_part(message, header.end(), separator)
        signature = _second_part(message, signature_at, closing)
    except MimeError as error:
        error.maybe_unfinished = message.find(closing, header.end()) < 0
        raise
    if b"\0" in message:
        raise MimeError("contains a NUL character, which OpenSSL versions treat differently")
    return Parts(canonical(signed), signature, micalg.decode("ascii"))


def text_of(signed: bytes) -> bytes:
    """Return the text of a first part without its header, `text/plain`.

    Raises:
        MimeError: it has another header.
    """
    if not signed.startswith(_TEXT_HEADER):
        raise MimeError("the signed part does not begin with the header of text/plain")
    return signed[len(_TEXT_HEADER) :]


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


def _not_a_header(message: bytes) -> MimeError:
    head = message[:_MAX_HEADER]
    if not head.startswith(_BEGINNING[: len(head)]):
        return MimeError("not signed: it does not begin with the header of an S/MIME message")
    boundary = head.find(b"\n--")
    cut = len(message) < _MAX_HEADER and (boundary < 0 or b"\n" not in head[boundary + 1 :])
    return MimeError("the header is not that of a signed run log", maybe_unfinished=cut)


def _first_part(message: bytes, at: int, separator: bytes) -> tuple[bytes, int]:
    """Return the first part without its last LF, and where its separator ends.

    The separator is searched for anywhere, because OpenSSL recognizes a boundary at the beginning
    of each piece of a long line, and where it cuts such a line depends on its version.
    """
    end = message.find(separator, at)
    if end <= at:
        raise MimeError("no second part")
    if message[end - 1 : end] != b"\n":
        raise MimeError("the boundary appears within a line")
    return message[at : end - 1], end + len(separator)


def _second_part(message: bytes, at: int, closing: bytes) -> bytes:
    """Return the signature in the part that begins at `at`, after the separator."""
    header = _SIGNATURE_HEADER.match(message, at)
    if header is None:
        raise MimeError("the second part does not have the header of a signature")
    end = message.find(closing, header.end() - 1)
    if end < 0:
        raise MimeError("no closing boundary")
    if message[end + len(closing) :] not in _AFTERWARDS:
        raise MimeError("data after the closing boundary")
    if end - header.end() > _MAX_SIGNATURE:
        raise MimeError(f"the signature is longer than {_MAX_SIGNATURE} bytes")
    return _decode(message[header.end() : end + 1])


def _decode(body: bytes) -> bytes:
    """Decode base64 in lines of 64 characters, with at most one empty line at the end."""
    *full, final = body.splitlines() or [b""]
    if full and not final:
        *full, final = full
    if not 0 < len(final) <= _BASE64_WIDTH or any(len(line) != _BASE64_WIDTH for line in full):
        raise MimeError("the signature is not base64 in lines of 64 characters")
    try:
        return binascii.a2b_base64(b"".join(full) + final, strict_mode=True)
    except binascii.Error as error:
        raise MimeError("the signature is not base64") from error
