"""The SignedData (RFC 5652, 5) of a run log: one signer, signed attributes, content elsewhere.

`openssl smime -sign` writes one narrow form; this module reads that form and refuses all others
before any cryptography. Algorithms are compared as whole DER elements with closed tables.
"""

from typing import Final, Literal, NamedTuple

from relayd.runlog.signature import der
from relayd.runlog.signature.der import DerError

Digest = Literal["sha256", "sha384", "sha512"]
Scheme = Literal["rsa", "ecdsa"]

SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")
DATA: Final = bytes.fromhex("06092a864886f70d010701")
CONTENT_TYPE: Final = bytes.fromhex("06092a864886f70d010903")
MESSAGE_DIGEST: Final = bytes.fromhex("06092a864886f70d010904")
SIGNING_TIME: Final = bytes.fromhex("06092a864886f70d010905")
SMIME_CAPABILITIES: Final = bytes.fromhex("06092a864886f70d01090f")

NULL: Final = bytes.fromhex("0500")
VERSION_1: Final = bytes.fromhex("020101")
#: EncapsulatedContentInfo of id-data without content.
DETACHED: Final = der.encode(der.SEQUENCE, DATA)

DIGEST_OIDS: Final[dict[Digest, bytes]] = {
    "sha256": bytes.fromhex("0609608648016503040201"),
    "sha384": bytes.fromhex("0609608648016503040202"),
    "sha512": bytes.fromhex("0609608648016503040203"),
}
RSA_OID: Final = bytes.fromhex("06092a864886f70d010101")
_RSA_OIDS: Final[dict[Digest, bytes]] = {
    "sha256": bytes.fromhex("06092a864886f70d01010b"),
    "sha384": bytes.fromhex("06092a864886f70d01010c"),
    "sha512": bytes.fromhex("06092a864886f70d01010d"),
}
ECDSA_OIDS: Final[dict[Digest, bytes]] = {
    "sha256": bytes.fromhex("06082a8648ce3d040302"),
    "sha384": bytes.fromhex("06082a8648ce3d040303"),
    "sha512": bytes.fromhex("06082a8648ce3d040304"),
}

#: AlgorithmIdentifier → digest. Parameters are NULL or, as RFC 5754 prefers, absent.
_DIGESTS: Final[dict[bytes, Digest]] = {
    der.encode(der.SEQUENCE, oid, parameters): name
    for name, oid in DIGEST_OIDS.items()
    for parameters in (NULL, b"")
}
_DIGEST_SETS: Final = {der.encode(der.SET, algorithm): name for algorithm, name in _DIGESTS.items()}
#: AlgorithmIdentifier → signature scheme, and the digest it implies (None: the signer's own).
_SCHEMES: Final[dict[bytes, tuple[Scheme, Digest | None]]] = {
    der.encode(der.SEQUENCE, RSA_OID, NULL): ("rsa", None),
    **{der.encode(der.SEQUENCE, oid, NULL): ("rsa", name) for name, oid in _RSA_OIDS.items()},
    **{der.encode(der.SEQUENCE, oid): ("ecdsa", name) for name, oid in ECDSA_OIDS.items()},
}
#: Attributes that agents sign, and the tags allowed for their single value. For any other, OpenSSL
#: may encode the value again, and thus verify bytes other than those that were sent.
_ATTRIBUTES: Final[dict[bytes, tuple[int, ...]]] = {
    CONTENT_TYPE: (der.OBJECT_IDENTIFIER,),
    MESSAGE_DIGEST: (der.OCTET_STRING,),
    SIGNING_TIME: (der.UTC_TIME, der.GENERALIZED_TIME),
    SMIME_CAPABILITIES: (der.SEQUENCE,),
}
_OID_HEADER: Final = DATA[:2]
_SET: Final = bytes((der.SET,))


class Signer(NamedTuple):
    """The one signer of a message.

    Attributes:
        sid: DER of IssuerAndSerialNumber.
        digest: the algorithm of both the message digest and the signature.
        message_digest: digest of the content, as signed.
        signed_attributes: the signed bytes (RFC 5652, 5.4: the explicit SET OF).
        scheme: RSASSA-PKCS1-v1_5 or ECDSA.
        signature: the signature's octets.
    """

    sid: bytes
    digest: Digest
    message_digest: bytes
    signed_attributes: bytes
    scheme: Scheme
    signature: bytes


def read_signed_data(data: bytes) -> Signer:
    """Read a ContentInfo that holds SignedData.

    Args:
        data: its DER, nothing after it.

    Raises:
        DerError: any deviation from the form that agents write; one line.
    """
    end = len(data)
    at = der.last(data, 0, der.SEQUENCE, end)
    if not data.startswith(SIGNED_DATA, at):
        raise DerError("the content is not SignedData")
    at = der.last(data, at + len(SIGNED_DATA), der.CONTEXT_0, end)
    at = _skip_version(data, der.last(data, at, der.SEQUENCE, end))
    digest_at, at = at, der.content(data, at, der.SET, end)[1]
    digest = _DIGEST_SETS.get(data[digest_at:at])
    if digest is None:
        raise DerError("not exactly one digest algorithm out of SHA-256, SHA-384 and SHA-512")
    content_at, at = at, der.content(data, at, der.SEQUENCE, end)[1]
    if data[content_at:at] != DETACHED:
        raise DerError("the signed content is not id-data, or is enclosed in the signature")
    # Enclosed certificates and revocation lists are not used, so they are not even read: the node's
    # own certificate judges the signature, whatever a certificate authority of the site has issued.
    for enclosed in (der.CONTEXT_0, der.CONTEXT_1):
        if der.tag(data, at, end) == enclosed:
            at = der.content(data, at, enclosed, end)[1]
    at = der.last(data, at, der.SET, end)
    if at == end:
        raise DerError("no signer")
    start, stop = der.content(data, at, der.SEQUENCE, end)
    if stop != end:
        raise DerError("more than one signer")
    return _read_signer(data, start, end, digest)


def _read_signer(data: bytes, at: int, end: int, digest: Digest) -> Signer:
    """Read the SignerInfo (RFC 5652, 5.3) whose content is `data[at:end]`."""
    sid_at = _skip_version(data, at)
    at = der.content(data, sid_at, der.SEQUENCE, end)[1]
    sid = data[sid_at:at]
    digest_at, at = at, der.content(data, at, der.SEQUENCE, end)[1]
    if _DIGESTS.get(data[digest_at:at]) != digest:
        raise DerError("the signer's digest algorithm is not the one announced")
    if der.tag(data, at, end) != der.CONTEXT_0:
        raise DerError("no signed attributes")
    start, attributes_end = der.content(data, at, der.CONTEXT_0, end)
    message_digest = _message_digest(data, start, attributes_end)
    signed_attributes = _SET + data[at + 1 : attributes_end]
    at = der.content(data, attributes_end, der.SEQUENCE, end)[1]
    scheme, fixed = _SCHEMES.get(data[attributes_end:at], (None, None))
    if scheme is None or (fixed or digest) != digest:
        raise DerError("the signature algorithm is not RSA or ECDSA with the announced digest")
    signature = data[der.last(data, at, der.OCTET_STRING, end) : end]
    return Signer(sid, digest, message_digest, signed_attributes, scheme, signature)


def _message_digest(data: bytes, at: int, end: int) -> bytes:
    """Check the attributes in `data[at:end]` and return the value of messageDigest."""
    values: dict[bytes, bytes] = {}
    while at < end:
        start, at = der.content(data, at, der.SEQUENCE, end)
        oid = data[start : start + len(MESSAGE_DIGEST)]
        tags = _ATTRIBUTES.get(oid)
        if tags is None or oid in values:
            raise DerError("an unknown or repeated signed attribute")
        value = der.last(data, start + len(oid), der.SET, at)
        tag = der.tag(data, value, at)
        if tag not in tags:
            raise DerError("the value of a signed attribute has a wrong type")
        values[oid] = data[der.last(data, value, tag, at) : at]
    if _OID_HEADER + values.get(CONTENT_TYPE, b"") != DATA:
        raise DerError("the signed content type is not id-data")
    if MESSAGE_DIGEST not in values:
        raise DerError("no message digest among the signed attributes")
    return values[MESSAGE_DIGEST]


def _skip_version(data: bytes, at: int) -> int:
    if not data.startswith(VERSION_1, at):
        raise DerError("the version is not 1")
    return at + len(VERSION_1)
