"""The outer form of a signed run log: two parts between boundaries (RFC 1847, RFC 8551, 3.5.3).

Read as strictly as `openssl smime -sign` and Python's `cryptography` write it. A looser reader
and OpenSSL might see different parts in one file; there is no file here that both read and read
differently.
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
#: No header that agents write comes near this.
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

#: Base64 of the largest signature that is looked at; one of RSA-4096 takes 1.3 kB.
_MAX_SIGNATURE: Final = 65536
_BASE64_WIDTH: Final = 64

#: OpenSSL reads lines into a buffer of 1024 bytes, NUL included, and treats each piece as a line.
_PIECE: Final = 1023
#: Line ends are made canonical in stretches of about this size: the lines of one are in memory
#: as separate objects, some 50 bytes each, while it is worked on.
_STRETCH: Final = 65536


class MimeError(ValueError):
    """The message is not a signed run log.

    Attributes:
        maybe_unfinished: a message cut short looks like this.
    """

    def __init__(self, detail: str, *, maybe_unfinished: bool = False) -> None:
        super().__init__(detail)
        self.maybe_unfinished = maybe_unfinished


class Parts(NamedTuple):
    """The two parts of a message.

    Attributes:
        signed: the first part in canonical form, its header included: what the digest is over.
        signature: the second part, decoded.
        micalg: name of the digest as the header gives it.
    """

    signed: bytes
    signature: bytes
    micalg: str


def split(message: bytes) -> Parts:
    """Split a message into its parts.

    Raises:
        MimeError: any departure from the form that agents write; one line.
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
        raise MimeError("a NUL character, which OpenSSL's versions read differently")
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
    r"""Return the form of a part that its digest is over, as `multi_split` of OpenSSL makes it.

    From the end of each line, and of each piece of 1023 bytes of a longer one, all CR are
    dropped; then lines are joined by CRLF. A CR within a line stays.

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

    The separator is looked for anywhere: where OpenSSL cuts a long line into pieces depends on
    its version, and it sees a boundary at the beginning of a piece.
    """
    end = message.find(separator, at)
    if end <= at:
        raise MimeError("no second part")
    if message[end - 1 : end] != b"\n":
        raise MimeError("the boundary appears within a line")
    return message[at : end - 1], end + len(separator)


def _second_part(message: bytes, at: int, closing: bytes) -> bytes:
    """Return the signature whose part begins at `at`, after its separator."""
    header = _SIGNATURE_HEADER.match(message, at)
    if header is None:
        raise MimeError("the second part does not have the header of a signature")
    end = message.find(closing, header.end() - 1)
    if end < 0:
        raise MimeError("no closing boundary")
    if message[end + len(closing) :] not in _AFTERWARDS:
        raise MimeError("something follows the closing boundary")
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
