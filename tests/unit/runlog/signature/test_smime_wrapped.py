"""Messages rebuilt without the key: none gives a text that the node did not sign."""

from base64 import b64decode

import pytest

from relayd.commands.demo.fleet.signing import wrap
from relayd.errors import Reason, Refused
from relayd.runlog.model import Verified
from relayd.runlog.signature.smime import verify
from tests.support.signing import make_key_and_cert, sign_runlog

NODE = make_key_and_cert("hostile-node")
OTHER = make_key_and_cert("hostile-other")
TEXT = b"R: @@what the node said\r\nsecond line\r\n"
ATTACK = b"R: @@what the attacker says\r\n"

MESSAGE = sign_runlog(TEXT, NODE)
BOUNDARY = MESSAGE.split(b'boundary="')[1].split(b'"')[0]
SEPARATOR = b"--" + BOUNDARY
OPEN = b"\n" + SEPARATOR
HEADER, FIRST, SECOND = MESSAGE.split(OPEN, 3)[:3]
BODY = OPEN + MESSAGE.split(OPEN, 1)[1]
CONTENT_TYPE = HEADER.split(b"\n")[1]
DER = b64decode(SECOND.split(b"\n\n")[1])
PART = FIRST[1:]
PLAIN = b"Content-Type: text/plain\r\n\r\n"


def outer(kind: str, *parts: bytes) -> bytes:
    """Return a multipart message of the given kind around other entities."""
    head = f'MIME-Version: 1.0\nContent-Type: multipart/{kind}; boundary="o"\n\n'.encode()
    return head + b"".join(b"--o\n" + part + b"\n" for part in parts) + b"--o--\n"


def headed(head: bytes) -> bytes:
    """Return the message with another header block."""
    return head + b"\n\nThis is an S/MIME signed message\n" + BODY


def edited(old: bytes, new: bytes) -> bytes:
    """Return the message with one piece of it replaced."""
    assert old in MESSAGE
    return MESSAGE.replace(old, new, 1)


VERSION = b"MIME-Version: 1.0\n"
MIXED = b'Content-Type: multipart/mixed; boundary="o"'
ATTACK_PART = PLAIN + ATTACK
SIGNATURE = SECOND[1:]

WRAPPED = {
    # The signed message as one part of something else
    "mixed, attack first": outer("mixed", ATTACK_PART, MESSAGE),
    "mixed, attack last": outer("mixed", MESSAGE, ATTACK_PART),
    "mixed, attack around": outer("mixed", ATTACK_PART, MESSAGE, ATTACK_PART),
    "mixed, alone": outer("mixed", MESSAGE),
    "alternative": outer("alternative", ATTACK_PART, MESSAGE),
    "related": outer("related", ATTACK_PART, MESSAGE),
    "digest": outer("digest", MESSAGE),
    "forwarded": VERSION + b"Content-Type: message/rfc822\n\n" + MESSAGE,
    "forwarded in mixed": outer("mixed", b"Content-Type: message/rfc822\n\n" + MESSAGE),
    "signed around signed": wrap(MESSAGE, DER, "sha-256", "x"),
    "outer multipart/signed": outer("signed", MESSAGE, SIGNATURE),
    "in a mailbox": b"From root@example.org Mon Jan  1 00:00:00 2026\n" + MESSAGE,
    # Other parts beside the two
    "text before the signed part": HEADER + OPEN + b"\n" + ATTACK_PART + BODY,
    "text after the signed part": edited(OPEN + SECOND, OPEN + b"\n" + ATTACK_PART + OPEN + SECOND),
    "text after the signature": edited(OPEN + b"--", OPEN + b"\n" + ATTACK_PART + OPEN + b"--"),
    "parts swapped": HEADER + OPEN + SECOND + OPEN + FIRST + OPEN + b"--\n",
    "signature twice": edited(SEPARATOR + SECOND, (SEPARATOR + SECOND + b"\n") * 2),
    "empty part first": HEADER + OPEN + BODY,
    "closed at once": HEADER + OPEN + b"--" + BODY,
    "closed after the text": edited(OPEN + SECOND, OPEN + b"--\n" + SEPARATOR + SECOND),
    # Text outside the parts
    "preamble": edited(b"This is an S/MIME signed message", ATTACK.strip()),
    "longer preamble": edited(b"signed message\n", b"signed message\n" + ATTACK),
    "epilogue": MESSAGE + ATTACK,
    "epilogue in the same line": edited(SEPARATOR + b"--", SEPARATOR + b"--" + ATTACK),
    "second message after it": MESSAGE + MESSAGE,
    # What counts as a boundary
    "boundary and more": edited(SEPARATOR + b"\n" + PART, SEPARATOR + b"x\n" + PART),
    "boundary and blank": edited(SEPARATOR + b"\n" + PART, SEPARATOR + b" \n" + PART),
    "boundary and more in the text": edited(
        b"second line", SEPARATOR + b"x\n" + ATTACK + b"second line"
    ),
    "boundary after a lone CR": edited(b"second line", b"\r" + SEPARATOR + b"\r" + ATTACK),
    "boundary in a long line": edited(b"second line", b"x" * 1023 + SEPARATOR),
    "boundary as a prefix": edited(b'boundary="' + BOUNDARY, b'boundary="' + BOUNDARY[:-1]),
    "empty boundary": edited(b'boundary="' + BOUNDARY, b'boundary="'),
    "boundary of blanks": edited(b'boundary="' + BOUNDARY, b'boundary="  '),
    "two boundaries": edited(b'; boundary="', b'; boundary="x"; boundary="'),
    "two boundaries, the good one first": edited(BOUNDARY + b'"', BOUNDARY + b'"; boundary="x"'),
    "boundary in RFC 2231": edited(b'; boundary="', b'; boundary*0="'),
    "boundary without quotes": edited(b'"' + BOUNDARY + b'"', BOUNDARY),
    "comment before the boundary": edited(b'; boundary="', b'; (boundary="x") boundary="'),
    # Headers
    "second Content-Type": headed(VERSION + MIXED + b"\n" + CONTENT_TYPE),
    "second Content-Type last": headed(VERSION + CONTENT_TYPE + b"\n" + MIXED),
    "other headers": headed(VERSION + b"From: root\n" + CONTENT_TYPE),
    "Content-Transfer-Encoding": headed(
        VERSION + b"Content-Transfer-Encoding: base64\n" + CONTENT_TYPE
    ),
    "folded header": edited(b"; micalg", b";\n micalg"),
    "comment in the type": edited(b"multipart/signed;", b"multipart/(signed)signed;"),
    "other type": edited(b"multipart/signed;", b"multipart/mixed;"),
    "other protocol": edited(b'protocol="application/x-pkcs7', b'protocol="application/pgp'),
    "no micalg": edited(b' micalg="sha-256";', b""),
    "other micalg": edited(b'micalg="sha-256"', b'micalg="sha-512"'),
    "unknown micalg": edited(b'micalg="sha-256"', b'micalg="md5"'),
    "header line of 10 MB": headed(VERSION + b"X: " + b"x" * 10_000_000 + b"\n" + CONTENT_TYPE),
    "long blank in the header": edited(b"; micalg", b"; " + b" " * 9000 + b"micalg"),
    "header ends twice": edited(b"\n\nThis is", b"\n\n\nThis is"),
    # The parts' own headers
    "HTML": edited(b"Content-Type: text/plain", b"Content-Type: text/html"),
    "charset": edited(b"Content-Type: text/plain", b"Content-Type: text/plain; charset=utf-7"),
    "second header of the text": edited(b"/plain\r\n", b"/plain\r\nContent-Type: text/html\r\n"),
    "encoded text": edited(b"/plain\r\n", b"/plain\r\nContent-Transfer-Encoding: base64\r\n"),
    "no header of the text": edited(PLAIN, b""),
    "nested multipart": edited(
        PLAIN, b'Content-Type: multipart/mixed; boundary="n"\r\n\r\n--n\r\n' + PLAIN
    ),
    "no blank line": edited(PLAIN, PLAIN[:-2]),
    "signature of another type": edited(
        b": application/x-pkcs7-signature", b": application/pkcs7-mime"
    ),
    "signature quoted-printable": edited(b"Encoding: base64", b"Encoding: quoted-printable"),
    "signature without encoding": edited(b"Content-Transfer-Encoding: base64\n", b""),
    "more headers of the signature": edited(b"Encoding: base64\n", b"Encoding: base64\nX: y\n"),
    "text before the signature": edited(b'smime.p7s"\n\n', b'smime.p7s"\n\n' + ATTACK),
    # Another text under the same signature
    "text replaced": edited(TEXT, ATTACK),
    "text appended": edited(TEXT, TEXT + ATTACK),
    "text prepended": edited(TEXT, ATTACK + TEXT),
    "line dropped": edited(b"second line\r\n", b""),
    "line end dropped": edited(b"said\r\n", b"said"),
    "lone CR instead of a line end": edited(b"said\r\n", b"said\r"),
    "blank at a line's end": edited(b"said\r\n", b"said \r\n"),
    "empty line added": edited(b"second line\r\n", b"second line\r\n\r\n"),
    "signature of another text": wrap(PLAIN + ATTACK, DER, "sha-256", "x"),
    "signature of another node": sign_runlog(ATTACK, OTHER),
}

#: What the rows C16 and C17 name, of the corpus.
ROWS = {
    "C16": (
        "text before the signed part",
        "text after the signed part",
        "text after the signature",
    ),
    "C17": ("epilogue", "preamble", "other micalg", "header line of 10 MB"),
}


def rows_of(name: str) -> list[str]:
    """Return the faults that a message of the corpus represents."""
    return ["C26", *(row for row, names in ROWS.items() if name in names)]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(message, id=name, marks=pytest.mark.fault(*rows_of(name)))
        for name, message in WRAPPED.items()
    ],
)
def test_wrapped_and_rebuilt_messages_are_refused(message: bytes) -> None:
    """A signed message as part of another message is not a signed message."""
    verdict = verify(message, [NODE.certificate])

    assert isinstance(verdict, Refused)
    assert verdict.reason in (Reason.MIME, Reason.SIGNATURE, Reason.UNKNOWN_SIGNER)


def test_the_corpus_is_made_of_a_good_message() -> None:
    """The pieces of the corpus in their original order are accepted."""
    assert verify(HEADER + BODY, [NODE.certificate]) == Verified(TEXT, 0)
    assert verify(headed(VERSION + CONTENT_TYPE), [NODE.certificate]) == Verified(TEXT, 0)
    assert verify(wrap(PART, DER, "sha-256", "x"), [NODE.certificate]) == Verified(TEXT, 0)
