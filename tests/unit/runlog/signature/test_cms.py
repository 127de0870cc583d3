"""Signatures that no agent writes: each is valid, and differs in one respect."""

import functools
import hashlib
import itertools
from collections.abc import Callable

import pytest
from _pytest.mark import ParameterSet
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from relayd.errors import Reason, Refused
from relayd.runlog.model import Verified
from relayd.runlog.signature import cms as oids
from relayd.runlog.signature.der import (
    CONTEXT_0,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTC_TIME,
    encode,
)
from relayd.runlog.signature.mime import add_text_header
from relayd.runlog.signature.smime import verify
from tests.support import cms
from tests.support.cms import (
    CONTEXT_1,
    attribute,
    message,
    proper_attributes,
    signed_data,
    signer_info,
)
from tests.support.openssl import OpenSSL
from tests.support.signing import make_key_and_cert

NODE = make_key_and_cert("cms-node", serial=0x1234)
OTHER = make_key_and_cert("cms-other")
TEXT = b"R: @@text\r\n"
SIGNED = add_text_header(TEXT)
ATTRIBUTES = proper_attributes(SIGNED)
INFO = signer_info(NODE, SIGNED)
GOOD = signed_data(INFO)


def with_attributes(**changes: bytes) -> bytes:
    """Return SignedData over attributes of which those named are replaced, `b""` for left out."""
    names = {"content_type": oids.CONTENT_TYPE, "message_digest": oids.MESSAGE_DIGEST}
    attributes = {**ATTRIBUTES, **{names[name]: value for name, value in changes.items()}}
    return signed_data(signer_info(NODE, SIGNED, attributes=b"".join(attributes.values())))


def with_digest_type(tag: int) -> bytes:
    digest = hashlib.sha256(SIGNED).digest()
    return with_attributes(message_digest=attribute(oids.MESSAGE_DIGEST, encode(tag, digest)))


def with_digest(digest: str) -> bytes:
    return signed_data(signer_info(NODE, SIGNED, digest=digest), digests=cms.algorithm(digest))


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = encode(SEQUENCE, data)
    return data


def indefinite(data: bytes) -> bytes:
    """Return the outermost element in BER with indefinite length."""
    assert data[1] == 0x82
    return data[:1] + b"\x80" + data[4:] + b"\0\0"


def inner_indefinite() -> bytes:
    """Return SignedData whose set of signers has an indefinite length."""
    body = (oids.VERSION_1, encode(SET, cms.algorithm("sha256")), oids.DETACHED)
    signers = bytes((SET, 0x80)) + INFO + b"\0\0"
    data = encode(SEQUENCE, *body, signers)
    return encode(SEQUENCE, oids.SIGNED_DATA, encode(CONTEXT_0, data))


def pss() -> bytes:
    data = encode(SET, *ATTRIBUTES.values())
    assert isinstance(NODE.key, rsa.RSAPrivateKey)
    salted = padding.PSS(padding.MGF1(cms.HASHES["sha256"]), 32)
    signature = NODE.key.sign(data, salted, cms.HASHES["sha256"])
    rsassa_pss = encode(SEQUENCE, bytes.fromhex("06092a864886f70d01010a"), encode(SEQUENCE))
    return signed_data(signer_info(NODE, SIGNED, scheme=rsassa_pss, signature=signature))


def attributes_that_look_like_text() -> bytes:
    """Return signed attributes, as SET, that are one line: they can be the content of a message."""
    for number in itertools.count():
        part = add_text_header(b"%d" % number)
        attributes = encode(SET, *proper_attributes(part).values())
        if b"\0" not in attributes and b"\n" not in attributes and attributes[-1:] != b"\r":
            break
    return attributes


def case(make: Callable[[], bytes], detail: str, *, id: str, fault: str = "") -> ParameterSet:  # noqa: A002
    """Return a case of SignedData that is refused with this in the detail."""
    return pytest.param(make, detail, marks=[pytest.mark.fault(fault)] if fault else [], id=id)


def test_the_builder_makes_what_is_accepted() -> None:
    """The message from which all others are derived is accepted."""
    assert verify(message(SIGNED, GOOD), [NODE.certificate]) == Verified(TEXT, 0)


CRAFTED = [
    case(signed_data, "no signer", fault="C4", id="no signer"),
    case(
        lambda: signed_data(INFO, signer_info(OTHER, SIGNED)),
        "more than one signer",
        fault="C5",
        id="two signers",
    ),
    case(
        lambda: signed_data(INFO, *[INFO] * 99),
        "more than one signer",
        fault="C11",
        id="100 times the same signer",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, attributes=b"")),
        "no signed attributes",
        fault="C7",
        id="no signed attributes",
    ),
    case(
        lambda: signed_data(INFO, content=encode(SEQUENCE, cms.ENVELOPED_DATA)),
        "not id-data",
        fault="C9",
        id="eContentType enveloped",
    ),
    case(
        lambda: with_attributes(content_type=attribute(oids.CONTENT_TYPE, cms.ENVELOPED_DATA)),
        "content type is not id-data",
        fault="C9",
        id="contentType enveloped",
    ),
    case(
        lambda: signed_data(
            signer_info(
                NODE,
                SIGNED,
                attributes=attribute(oids.CONTENT_TYPE, cms.ENVELOPED_DATA)
                + ATTRIBUTES[oids.MESSAGE_DIGEST],
            ),
            content=encode(SEQUENCE, cms.ENVELOPED_DATA),
        ),
        "not id-data",
        fault="C9",
        id="both enveloped",
    ),
    case(
        lambda: signed_data(
            INFO,
            content=encode(
                SEQUENCE, oids.DATA, encode(CONTEXT_0, encode(OCTET_STRING, b"another text"))
            ),
        ),
        "enclosed",
        fault="C10",
        id="enclosed content",
    ),
    case(
        lambda: signed_data(INFO, digests=b""),
        "not exactly one digest algorithm",
        fault="C12",
        id="no digest algorithm",
    ),
    case(
        lambda: signed_data(INFO, digests=cms.algorithm("sha256") + cms.algorithm("sha512")),
        "not exactly one digest algorithm",
        id="two digest algorithms",
    ),
    case(
        lambda: signed_data(INFO, digests=cms.algorithm("sha512")),
        "not the one announced",
        id="another digest announced",
    ),
    *(
        case(
            functools.partial(with_digest_type, tag),
            "wrong type",
            fault="C13",
            id=f"messageDigest of type {tag:#04x}",
        )
        for tag in (INTEGER, OBJECT_IDENTIFIER, UTC_TIME, SEQUENCE, 0x24, 0x05)
    ),
    case(
        lambda: with_attributes(message_digest=attribute(oids.MESSAGE_DIGEST)),
        "wrong type",
        fault="C13",
        id="messageDigest without value",
    ),
    case(
        lambda: with_attributes(
            message_digest=attribute(
                oids.MESSAGE_DIGEST,
                encode(OCTET_STRING, b"x" * 32),
                encode(OCTET_STRING, hashlib.sha256(SIGNED).digest()),
            )
        ),
        "too many",
        id="two values of messageDigest",
    ),
    case(lambda: with_attributes(message_digest=b""), "no message digest", id="no digest"),
    case(lambda: with_attributes(content_type=b""), "not id-data", id="no contentType"),
    case(
        lambda: with_attributes(content_type=ATTRIBUTES[oids.CONTENT_TYPE] * 2),
        "repeated",
        id="contentType twice",
    ),
    case(
        lambda: with_attributes(message_digest=ATTRIBUTES[oids.MESSAGE_DIGEST] * 2),
        "repeated",
        id="messageDigest twice",
    ),
    case(
        lambda: with_attributes(
            content_type=ATTRIBUTES[oids.CONTENT_TYPE]
            + attribute(bytes.fromhex("06092a864886f70d010902"), encode(0x0C, b"x"))
        ),
        "unknown or repeated",
        id="unknown attribute",
    ),
    case(
        lambda: with_attributes(
            message_digest=attribute(oids.MESSAGE_DIGEST, encode(OCTET_STRING, b"x" * 32))
        ),
        "not the one that was signed",
        id="digest of another text",
    ),
    *(
        case(
            functools.partial(signed_data, INFO, kind=bytes.fromhex(kind)),
            "not SignedData",
            fault="C14",
            id=name,
        )
        for name, kind in {
            "EnvelopedData": "06092a864886f70d010703",
            "SignedAndEnvelopedData": "06092a864886f70d010704",
            "DigestedData": "06092a864886f70d010705",
            "EncryptedData": "06092a864886f70d010706",
            "AuthEnvelopedData": "060b2a864886f70d0109100117",
            "CompressedData": "060b2a864886f70d0109100109",
        }.items()
    ),
    case(lambda: GOOD + b"\0", "too many", fault="C18", id="trailing byte"),
    case(lambda: GOOD + GOOD, "too many", fault="C18", id="a second message"),
    case(lambda: indefinite(GOOD), "indefinite", fault="C18", id="indefinite"),
    case(inner_indefinite, "indefinite", fault="C18", id="indefinite inside"),
    case(
        lambda: signed_data(INFO, version=b"\x02\x81\x01\x01"),
        "version is not 1",
        fault="C18",
        id="overlong length",
    ),
    case(
        lambda: nested(2000),
        "not SignedData",
        fault="C18",
        id="nesting of 2000",
    ),
    case(
        lambda: signed_data(nested(2000)),
        "",
        fault="C18",
        id="nesting of 2000 in the signer",
    ),
    case(
        lambda: signed_data(INFO, certificates=encode(CONTEXT_1, b"") + encode(CONTEXT_0, b"")),
        "0xa0",
        id="certificates behind the CRLs",
    ),
    case(
        lambda: signed_data(INFO, certificates=encode(CONTEXT_0, b"") * 2),
        "0xa0",
        id="certificates twice",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, unsigned=ATTRIBUTES[oids.SIGNING_TIME])),
        "too many",
        id="unsigned attributes",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, version=encode(INTEGER, b"\x03"))),
        "version is not 1",
        id="signer of version 3",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, sid=encode(0x80, b"x" * 20))),
        "0x80 instead of 0x30",
        id="signer by key identifier",
    ),
    case(pss, "signature algorithm", id="RSASSA-PSS"),
    case(
        lambda: signed_data(
            signer_info(NODE, SIGNED, scheme=encode(SEQUENCE, oids.ECDSA_OIDS["sha512"]))
        ),
        "signature algorithm",
        id="signature with another digest",
    ),
    case(
        lambda: signed_data(
            signer_info(NODE, SIGNED, scheme=encode(SEQUENCE, oids.ECDSA_OIDS["sha256"]))
        ),
        "does not match the key of the certificate",
        id="RSA called ECDSA",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, signature=b"")),
        "does not match the key of the certificate",
        id="empty signature",
    ),
    case(
        lambda: signed_data(signer_info(NODE, SIGNED, attributes_tag=SET)),
        "no signed attributes",
        id="attributes under another tag",
    ),
    *(
        case(
            functools.partial(with_digest, digest),
            "SHA-256, SHA-384 and SHA-512",
            fault="C6",
            id=digest,
        )
        for digest in ("md5", "sha1", "sha224")
    ),
]


@pytest.mark.fault("D.5.1")
@pytest.mark.parametrize(("make", "detail"), CRAFTED)
def test_signature_of_another_form_is_refused(make: Callable[[], bytes], detail: str) -> None:
    """Every deviation from the form that agents write is refused, validly signed or not."""
    verdict = verify(message(SIGNED, make()), [NODE.certificate, OTHER.certificate])

    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.SIGNATURE
    assert detail in verdict.detail


@pytest.mark.fault("C11")
def test_thousands_of_signers_are_refused() -> None:
    """A message with 2,000 signers is refused for its size."""
    crafted = message(SIGNED, signed_data(*[INFO] * 2000))

    verdict = verify(crafted, [NODE.certificate])

    assert isinstance(verdict, Refused)
    assert "longer than 65536 bytes" in verdict.detail


@pytest.mark.fault("C8")
def test_signed_attributes_cannot_be_passed_off_as_text(openssl: OpenSSL) -> None:
    """The signature of one message is not accepted for another whose text is its DER attributes."""
    attributes = attributes_that_look_like_text()
    taken = signer_info(NODE, b"", attributes=b"", signed_bytes=attributes)
    forged = message(attributes, signed_data(taken))

    assert openssl.verify(forged, NODE, text=False) == attributes
    assert isinstance(verify(forged, [NODE.certificate]), Refused)


def test_ed25519_is_refused_as_openssl_refuses_it(openssl: OpenSSL) -> None:
    """A signature with Ed25519 (RFC 8419) is refused, since `openssl smime` refuses it."""
    node = make_key_and_cert("ed25519", key=ed25519.Ed25519PrivateKey.generate())
    info = signer_info(node, SIGNED, digest="sha512", scheme=cms.ED25519)
    crafted = message(SIGNED, signed_data(info, digests=cms.algorithm("sha512")), "sha-512")

    assert openssl.verify(crafted, node) is None
    assert isinstance(verify(crafted, [node.certificate]), Refused)


def damaged(old: str, new: str) -> bytes:
    """The node's certificate with one damaged field."""
    encoded = NODE.cert_der.hex()
    assert old in encoded
    return bytes.fromhex(encoded.replace(old, new, 1))


ENCLOSED = {
    "negative serial number": damaged("02021234", "02028234"),
    "serial number 0": damaged("02021234", "02020000"),
    "BMPString": damaged("0c08636d732d6e6f6465", "1e08636d732d6e6f6465"),
    "name of bits": damaged("0c08636d732d6e6f6465", "0308006d732d6e6f6465"),
    "name not UTF-8": damaged("0c08636d732d6e6f6465", "0c08ff6d732d6e6f6465"),
    "unknown version": damaged("a003020102", "a003020122"),
    "time of the wrong length": damaged("170d", "180d"),
    "garbage": b"\x30\x03abc",
    "no DER at all": b"\xff" * 7,
    "unknown choice": encode(0xA3, b"\x06\x03abc"),
    "nothing": b"",
}


@pytest.mark.fault("F12")
@pytest.mark.parametrize("enclosed", ENCLOSED.values(), ids=ENCLOSED)
def test_enclosed_certificate_need_not_be_readable(enclosed: bytes) -> None:
    """What is enclosed as a certificate or a CRL is not read: the node's own one judges."""
    for certificates in (
        encode(CONTEXT_0, enclosed),
        encode(CONTEXT_0, NODE.cert_der, enclosed),
        encode(CONTEXT_1, enclosed),
        encode(CONTEXT_0, enclosed) + encode(CONTEXT_1, enclosed),
    ):
        crafted = message(SIGNED, signed_data(INFO, certificates=certificates))
        assert verify(crafted, [NODE.certificate]) == Verified(TEXT, 0)
        assert isinstance(verify(crafted, [OTHER.certificate]), Refused)


@pytest.mark.fault("F12")
@pytest.mark.parametrize("name", ["BMPString", "negative serial number"])
def test_certificates_of_old_authorities_pass_as_with_openssl(name: str, openssl: OpenSSL) -> None:
    """OpenSSL takes messages with such certificates too, with the same bytes."""
    certificates = encode(CONTEXT_0, ENCLOSED[name])
    crafted = message(SIGNED, signed_data(INFO, certificates=certificates))

    assert openssl.verify(crafted, NODE) == TEXT


def test_enclosed_certificates_are_ignored() -> None:
    """Enclosed certificates of any owner change nothing."""
    certificates = encode(CONTEXT_0, OTHER.cert_der, NODE.cert_der)
    crafted = message(SIGNED, signed_data(INFO, certificates=certificates))

    assert verify(crafted, [NODE.certificate]) == Verified(TEXT, 0)
    assert isinstance(verify(crafted, [OTHER.certificate]), Refused)


@pytest.mark.parametrize("scheme", ["sha256WithRSAEncryption", "no NULL in the digest"])
def test_other_spellings_of_the_algorithms_are_accepted(scheme: str, openssl: OpenSSL) -> None:
    """Other names for the same algorithms are understood, as by OpenSSL."""
    bare = encode(SEQUENCE, oids.DIGEST_OIDS["sha256"])
    if scheme == "sha256WithRSAEncryption":
        oid = bytes.fromhex("06092a864886f70d01010b")
        signature = signed_data(signer_info(NODE, SIGNED, scheme=encode(SEQUENCE, oid, oids.NULL)))
    else:
        info = INFO.replace(cms.algorithm("sha256"), bare, 1)
        assert info[1] == 0x82
        signature = signed_data(encode(SEQUENCE, info[4:]), digests=bare)
    crafted = message(SIGNED, signature)

    assert openssl.verify(crafted, NODE) == TEXT
    assert verify(crafted, [NODE.certificate]) == Verified(TEXT, 0)
