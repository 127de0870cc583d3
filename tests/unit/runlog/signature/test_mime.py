"""Splitting of messages, against a literal model of OpenSSL's reader."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.runlog.signature import mime
from relayd.runlog.signature.mime import MimeError, canonical, split

BOUNDARY = "----0123456789ABCDEF0123456789ABCDEF"
HEAD = (
    "MIME-Version: 1.0\n"
    'Content-Type: multipart/signed; protocol="application/x-pkcs7-signature"; micalg="sha-256";'
    f' boundary="{BOUNDARY}"\n'
    "\n"
    "This is an S/MIME signed message\n"
    "\n"
    f"--{BOUNDARY}\n"
).encode()
TAIL = (
    f"\n--{BOUNDARY}\n"
    'Content-Type: application/x-pkcs7-signature; name="smime.p7s"\n'
    "Content-Transfer-Encoding: base64\n"
    'Content-Disposition: attachment; filename="smime.p7s"\n'
    "\n"
    "c2lnbmF0dXJl\n"
    f"\n--{BOUNDARY}--\n\n"
).encode()

#: Pieces of text that meet the corners of line ends and of OpenSSL's buffer of 1024 bytes.
PIECES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\r\r\n", b"a", b" ", b"--", b"\xff", b"\n\n"]
    + [b"x" * n for n in (1020, 1021, 1022, 1023, 1024, 2045, 2046)]
)
TEXTS = st.lists(PIECES, max_size=12).map(b"".join)


def literal(part: bytes) -> bytes:
    """Return the result of the loop in OpenSSL's `multi_split`, byte by byte, with its names."""
    part += b"\n"
    bpart, eol, at = bytearray(), False, 0
    first = True
    while at < len(part):
        line = bytearray()
        while len(line) < 1023 and at < len(part):
            line.append(part[at])
            at += 1
            if line[-1] == 0x0A:
                break
        is_eol = False
        while line and line[-1] in b"\r\n":
            is_eol = is_eol or line[-1] == 0x0A
            line.pop()
        if not first and eol:
            bpart += b"\r\n"
        first = False
        eol = is_eol
        bpart += line
    return bytes(bpart)


@settings(deadline=None)
@given(text=TEXTS)
def test_canonical_form_is_that_of_openssl(text: bytes) -> None:
    """Any mix of line ends and long lines gives the result of a literal copy of OpenSSL's loop."""
    assert canonical(text) == literal(text)


@settings(deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
def test_canonical_form_does_not_depend_on_where_stretches_end(texts: list[bytes]) -> None:
    """A text of many stretches gives the same result as in a single stretch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mime, "_STRETCH", 7)
        in_pieces = canonical(b"".join(texts))
    assert in_pieces == canonical(b"".join(texts))


def test_canonical_form_of_a_text_longer_than_one_stretch() -> None:
    """Megabytes of lines give the same result as line by line."""
    text = b"some line\n" * 300_000 + b"y" * 200_000 + b"\r\n" + b"\r" * 200_000 + b"\nend"

    assert canonical(text) == literal(text)


def test_parts_of_a_message_are_found() -> None:
    """The signed part keeps its own header, the signature is decoded, and the rest is dropped."""
    parts = split(HEAD + b"Content-Type: text/plain\r\n\r\nline\r\n" + TAIL)

    assert parts.signed == b"Content-Type: text/plain\r\n\r\nline\r\n"
    assert parts.signature == b"signature"
    assert parts.micalg == "sha-256"


def test_message_is_read_with_the_line_ends_of_any_system() -> None:
    """CRLF around the parts, and CR doubled by a writer in text mode, change nothing."""
    unix = HEAD + b"Content-Type: text/plain\r\n\r\nline\r\n" + TAIL
    windows = unix.replace(b"\n", b"\r\n")

    assert split(windows) == split(unix)


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        pytest.param(b"QUJD\n", True, id="one line"),
        pytest.param(b"QUJD\n\n", True, id="empty line after it"),
        pytest.param(b"QUJD\r\n\r\n", True, id="CRLF"),
        pytest.param(b"QUJD" * 16 + b"\nQUJD\n", True, id="full line"),
        pytest.param(b"QUJD" * 16 + b"\n", True, id="full last line"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(b"\n", False, id="empty line"),
        pytest.param(b"QUJD\n\n\n", True, id="two empty lines"),
        pytest.param(b"QUJD" * 19 + b"\nQUJD\n", True, id="76 columns"),
        pytest.param(b"QUJD\nQUJD\n", True, id="short lines"),
        pytest.param(b"QUJD" * 17 + b"\n", True, id="68 columns"),
        pytest.param(b"\nQUJD\n", False, id="empty line before it"),
        pytest.param(b"QUJD\nQUJDQUJD\n", False, id="short line"),
        pytest.param(b"QUJD" * 260 + b"\n", False, id="long line"),
        pytest.param(b"QUJD" * 16 + b"\r\r\nQUJD\n", False, id="CR doubled"),
        pytest.param(b"QUJ\n", False, id="no padding"),
        pytest.param(b"Q=JD\n", False, id="padding inside"),
        pytest.param(b"QUI=QUJD\n", False, id="bytes after padding"),
        pytest.param(b"QU!D\n", False, id="other character"),
        pytest.param(b"QU D\n", False, id="blank"),
        pytest.param(b"QUJD\nhello\n", False, id="text after it"),
    ],
)
def test_base64_is_read_strictly(body: bytes, accepted: bool) -> None:
    """Only base64 in lines of one length passes, with empty lines after it."""
    message = HEAD + b"line" + TAIL.replace(b"c2lnbmF0dXJl\n\n", body)
    if accepted:
        assert split(message).signature.startswith(b"ABC")
    else:
        with pytest.raises(MimeError, match="base64"):
            split(message)


def test_signature_of_unreasonable_size_is_refused() -> None:
    """A second part too large for a signature of an agent is not even decoded."""
    message = HEAD + b"line" + TAIL.replace(b"c2lnbmF0dXJl\n", (b"QUJD" * 16 + b"\n") * 1024)

    with pytest.raises(MimeError, match="longer than 65536 bytes"):
        split(message)


def test_boundary_within_a_line_is_refused() -> None:
    """Text that contains the boundary anywhere is refused: OpenSSL may split a long line there."""
    for before in (b"x", b"x" * 1023):
        with pytest.raises(MimeError, match="within a line"):
            split(HEAD + before + b"--" + BOUNDARY.encode() + b"\n" + TAIL)
