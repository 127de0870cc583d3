"""SignedData that no ordinary tool writes, built piece by piece, and signed messages around it."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from relayd.commands.demo.fleet.signing import wrap
from relayd.runlog.signature import cms
from relayd.runlog.signature.der import (
    CONTEXT_0,
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTC_TIME,
    encode,
)
from tests.support.signing import SigningNode

CONTEXT_1 = 0xA1

HASHES: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
DIGEST_OIDS: dict[str, bytes] = {
    "sha256": cms.DIGEST_OIDS["sha256"],
    "sha384": cms.DIGEST_OIDS["sha384"],
    "sha512": cms.DIGEST_OIDS["sha512"],
    "md5": bytes.fromhex("06082a864886f70d0205"),
    "sha1": bytes.fromhex("06052b0e03021a"),
    "sha224": bytes.fromhex("0609608648016503040204"),
}
RSA = encode(SEQUENCE, cms.RSA_OID, cms.NULL)
ED25519 = encode(SEQUENCE, bytes.fromhex("06032b6570"))
ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")


def attribute(oid: bytes, *values: bytes) -> bytes:
    """Return DER of an Attribute."""
    return encode(SEQUENCE, oid, encode(SET, *values))


def algorithm(digest: str) -> bytes:
    """Return the AlgorithmIdentifier of a digest, with NULL."""
    return encode(SEQUENCE, DIGEST_OIDS[digest], cms.NULL)


def proper_attributes(signed: bytes, digest: str = "sha256") -> dict[bytes, bytes]:
    """Return the signed attributes that belong to a first part, by their OID, in DER order."""
    octets = hashlib.new(digest, signed).digest()
    return {
        cms.CONTENT_TYPE: attribute(cms.CONTENT_TYPE, cms.DATA),
        cms.SIGNING_TIME: attribute(cms.SIGNING_TIME, encode(UTC_TIME, b"260101000000Z")),
        cms.MESSAGE_DIGEST: attribute(cms.MESSAGE_DIGEST, encode(OCTET_STRING, octets)),
    }


def issuer_and_serial(certificate: x509.Certificate) -> bytes:
    """Return the IssuerAndSerialNumber of a certificate, be its key usable or not."""
    number = certificate.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return encode(SEQUENCE, certificate.issuer.public_bytes(), encode(INTEGER, serial))


def sign(node: SigningNode, data: bytes, digest: str = "sha256") -> bytes:
    """Return the signature of data with the node's key."""
    match node.key:
        case rsa.RSAPrivateKey():
            return node.key.sign(data, padding.PKCS1v15(), HASHES[digest])
        case ec.EllipticCurvePrivateKey():
            return node.key.sign(data, ec.ECDSA(HASHES[digest]))
        case ed25519.Ed25519PrivateKey():
            return node.key.sign(data)


def signer_info(
    node: SigningNode,
    signed: bytes,
    *,
    digest: str = "sha256",
    attributes: bytes | None = None,
    attributes_tag: int = CONTEXT_0,
    signed_bytes: bytes | None = None,
    scheme: bytes = RSA,
    signature: bytes | None = None,
    sid: bytes | None = None,
    version: bytes = cms.VERSION_1,
    unsigned: bytes = b"",
) -> bytes:
    """Return a SignerInfo; each piece is right unless it is given.

    Args:
        node: who signs.
        signed: the first part in canonical form.
        digest: name of the digest algorithm.
        attributes: content of the set of signed attributes; `b""` leaves the set out.
        attributes_tag: tag of that set as it is written.
        signed_bytes: what the signature is over, instead of the set of attributes.
        scheme: the signature's AlgorithmIdentifier.
        signature: the signature itself.
        sid: IssuerAndSerialNumber.
        version: DER of the version.
        unsigned: content of the set of unsigned attributes.
    """
    if attributes is None:
        attributes = b"".join(proper_attributes(signed, digest).values())
    if signed_bytes is None:
        signed_bytes = encode(SET, attributes) if attributes else signed
    if signature is None:
        signature = sign(node, signed_bytes, digest)
    return encode(
        SEQUENCE,
        version,
        sid or node.certificate.sid,
        algorithm(digest),
        encode(attributes_tag, attributes) if attributes else b"",
        scheme,
        encode(OCTET_STRING, signature),
        encode(CONTEXT_1, unsigned) if unsigned else b"",
    )


def signed_data(
    *signers: bytes,
    digests: bytes | None = None,
    content: bytes = cms.DETACHED,
    certificates: bytes = b"",
    kind: bytes = cms.SIGNED_DATA,
    version: bytes = cms.VERSION_1,
) -> bytes:
    """Return a ContentInfo around these SignerInfos; each piece is right unless it is given."""
    body = encode(
        SEQUENCE,
        version,
        encode(SET, algorithm("sha256") if digests is None else digests),
        content,
        certificates,
        encode(SET, *signers),
    )
    return encode(SEQUENCE, kind, encode(CONTEXT_0, body))


def message(signed: bytes, signature: bytes, micalg: str = "sha-256") -> bytes:
    """Return the multipart message with a fixed boundary."""
    return wrap(signed, signature, micalg, f"----{'0123456789ABCDEF' * 2}")
