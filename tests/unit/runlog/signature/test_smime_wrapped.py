"""Messages rebuilt without the key: none gives a text that the node did not sign."""

import random
from base64 import b64decode, b64encode
from collections.abc import Iterator

import pytest

from relayd.commands.demo.fleet.signing import wrap
from relayd.errors import Reason, Refused
from relayd.runlog.model import Verified
from relayd.runlog.signature.smime import verify
from tests.support.openssl import OpenSSL
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


def wrapped(data: bytes, width: int) -> list[bytes]:
    """Return base64 in lines of this width."""
    text = b64encode(data)
    return [text[at : at + width] for at in range(0, len(text), width)]


def encodebytes64(data: bytes) -> bytes:
    """Return base64 as openssl writes it."""
    return b"\n".join(wrapped(data, 64)) + b"\n"


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
    # Parts in addition to the two
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
    # Boundaries
    "boundary and more": edited(SEPARATOR + b"\n" + PART, SEPARATOR + b"x\n" + PART),
    "boundary and more in the text": edited(
        b"second line", SEPARATOR + b"x\n" + ATTACK + b"second line"
    ),
    "boundary after a lone CR": edited(b"second line", b"\r" + SEPARATOR + b"\r" + ATTACK),
    "boundary in a long line": edited(b"second line", b"x" * 1023 + SEPARATOR),
    "boundary as a prefix": edited(b'boundary="' + BOUNDARY, b'boundary="' + BOUNDARY[:-1]),
    "empty boundary": edited(b'boundary="' + BOUNDARY, b'boundary="'),
    "boundary of one character": wrap(PART, DER, "sha-256", "x"),
    "boundary of blanks": edited(b'boundary="' + BOUNDARY, b'boundary="  '),
    "two boundaries": edited(b'; boundary="', b'; boundary="x"; boundary="'),
    "two boundaries, the good one first": edited(BOUNDARY + b'"', BOUNDARY + b'"; boundary="x"'),
    "boundary in RFC 2231": edited(b'; boundary="', b'; boundary*0="'),
    "comment before the boundary": edited(b'; boundary="', b'; (boundary="x") boundary="'),
    # Headers
    "second Content-Type": headed(VERSION + MIXED + b"\n" + CONTENT_TYPE),
    "second Content-Type last": headed(VERSION + CONTENT_TYPE + b"\n" + MIXED),
    "Content-Transfer-Encoding": headed(
        VERSION + b"Content-Transfer-Encoding: base64\n" + CONTENT_TYPE
    ),
    "comment in the type": edited(b"multipart/signed;", b"multipart/(signed)signed;"),
    "other type": edited(b"multipart/signed;", b"multipart/mixed;"),
    "other protocol": edited(b'protocol="application/x-pkcs7', b'protocol="application/pgp'),
    "other micalg": edited(b'micalg="sha-256"', b'micalg="sha-512"'),
    "unknown micalg": edited(b'micalg="sha-256"', b'micalg="md5"'),
    "header line of 10 MB": headed(VERSION + b"X: " + b"x" * 10_000_000 + b"\n" + CONTENT_TYPE),
    "long blank in the header": edited(b"; micalg", b"; " + b" " * 9000 + b"micalg"),
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

#: Forms that agents do not write, but mail tools, proxies and libraries do.
REWRITTEN = {
    "boundary and blank": edited(SEPARATOR + b"\n" + PART, SEPARATOR + b" \n" + PART),
    "boundary without quotes": edited(b'"' + BOUNDARY + b'"', BOUNDARY),
    "other headers": headed(VERSION + b"From: root\n" + CONTENT_TYPE),
    "folded header": edited(b"; micalg", b";\n micalg"),
    "no micalg": edited(b' micalg="sha-256";', b""),
    "boundary of two characters": wrap(PART, DER, "sha-256", "xy"),
    "header ends twice": edited(b"\n\nThis is", b"\n\n\nThis is"),
    "more headers of the signature": edited(b"Encoding: base64\n", b"Encoding: base64\nX: y\n"),
    "header in another order": headed(CONTENT_TYPE + b"\n" + VERSION.strip()),
    "without a version": headed(CONTENT_TYPE),
    "in capitals": headed(VERSION.upper() + CONTENT_TYPE.replace(b"Content-Type", b"CONTENT-TYPE")),
    "type in capitals": edited(b"multipart/signed; protocol", b"Multipart/Signed; PROTOCOL"),
    "folded with a tab": edited(b"; boundary", b";\n\tboundary"),
    "folded twice": edited(b"; micalg", b";\r\n  micalg").replace(b"; boundary", b";\n boundary"),
    "parameter at the end": edited(BOUNDARY + b'"\n', BOUNDARY + b'"; x-seen=1;\n'),
    "without the note": HEADER.split(b"\n\n")[0] + b"\n" + BODY,
    "one line end at the end": MESSAGE.rstrip() + b"\n",
    "no line end at the end": MESSAGE.rstrip(),
    "many line ends at the end": MESSAGE + b"\r\n\n",
    "without an empty line before the end": edited(
        b"\n\n" + SEPARATOR + b"--", b"\n" + SEPARATOR + b"--"
    ),
    "CRLF": MESSAGE.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "CRLF in the header": MESSAGE.replace(HEADER, HEADER.replace(b"\n", b"\r\n")),
    "LF in the text": MESSAGE.replace(b"\r\n", b"\n"),
    "header of a mail": b"Received: from a\n\tby b;\n\tMon, 1 Jan 2026 00:00:00 +0000\nSubject: x\n"
    + MESSAGE,
    "other order of the signature's header": edited(
        b"Content-Transfer-Encoding: base64\n", b""
    ).replace(
        b"\nContent-Type: application",
        b"\ncontent-transfer-encoding: BASE64\nContent-Type: application",
    ),
    **{
        f"{width} columns": MESSAGE.replace(
            encodebytes64(DER), b"\n".join(wrapped(DER, width)) + b"\n"
        )
        for width in (4, 60, 72, 76)
    },
}

#: The messages of the corpus that the faults C16 and C17 name.
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


@pytest.mark.fault("F61")
@pytest.mark.parametrize("message", REWRITTEN.values(), ids=REWRITTEN)
def test_rewritten_message_is_accepted_as_by_openssl(message: bytes, openssl: OpenSSL) -> None:
    """What changes nothing that was signed changes nothing, for openssl and for relayd."""
    assert message != MESSAGE
    assert verify(message, [NODE.certificate]) == Verified(TEXT, 0)
    assert openssl.verify(message, NODE) == TEXT


PIECES = (
    *(b" ", b"\t", b";", b":", b"=", b'"', b"(x)", b"\n", b"\r\n", b"\r", b"\n ", b"\n\t", b"--"),
    *(b"X-A: b\n", b"; a=b", b"charset=utf-8", b"Content-Type: text/plain\n", SEPARATOR, b"base64"),
)


def rewritings(seed: int, count: int) -> Iterator[bytes]:
    """Yield messages with one to three pieces of their headers added, dropped or changed."""
    chance = random.Random(seed)
    for _ in range(count):
        message = chance.choice((MESSAGE, *REWRITTEN.values()))
        for _ in range(chance.choice((1, 1, 2, 3))):
            at = chance.randrange(len(message) + 1)
            if chance.random() < 0.7:  # the headers are short, and the text and the signature long
                at = message.find(chance.choice((b"\n", b";", b":", b'"', b"--", b"=")), at)
            end = at + chance.choice((0, 0, 0, 1, 2, 8))
            piece = chance.choice((*PIECES, message[at:end].swapcase(), b""))
            message = message[:at] + piece + message[end:]
        yield message


def compare(openssl: OpenSSL, seed: int, count: int) -> tuple[int, int]:
    """Compare with openssl; return how many both accept, and how many only openssl does."""
    both = only = 0
    for message in rewritings(seed, count):
        verdict = verify(message, [NODE.certificate])
        theirs = openssl.verify(message, NODE)
        if isinstance(verdict, Verified):
            assert verdict.content == theirs, message
            both += 1
        else:
            only += theirs is not None
    return both, only


@pytest.mark.fault("F61")
def test_rewritten_messages_agree_with_openssl(openssl: OpenSSL) -> None:
    """No message is accepted with other bytes than openssl gives, however its form was changed."""
    both, _ = compare(openssl, seed=1, count=200)
    assert both > 10


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.fault("F61")
def test_campaign_of_rewritten_messages(openssl: OpenSSL) -> None:
    """Of thousands of rewritten messages, none is accepted with other bytes than openssl gives."""
    both, _ = compare(openssl, seed=2, count=5_000)
    assert both > 800


def test_the_corpus_is_made_of_a_good_message() -> None:
    """The pieces of the corpus in their original order are accepted."""
    assert verify(HEADER + BODY, [NODE.certificate]) == Verified(TEXT, 0)
    assert verify(headed(VERSION + CONTENT_TYPE), [NODE.certificate]) == Verified(TEXT, 0)
    assert verify(wrap(PART, DER, "sha-256", "xy"), [NODE.certificate]) == Verified(TEXT, 0)
