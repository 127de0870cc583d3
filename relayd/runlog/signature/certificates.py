"""Agent certificates (X.509, RFC 5280): the fields that identify a node and verify its signatures.

Trust is by pinning, so nothing is verified here: neither the signature of a certificate nor its
dates nor any chain. `cryptography.x509` would take 1.2 times as long and also refuse 195 of 20,000
damaged certificates for faults in fields that are not used (measured by `benchmarks/libraries.py`).
"""

import calendar
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature import der

NodeKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MIN_RSA_BITS: Final = 2048
#: CFEngine's old key generator used 35; 3 is the exponent that known forgeries need.
MIN_RSA_EXPONENT: Final = 17

_RSA_ENCRYPTION: Final = bytes.fromhex("06092a864886f70d010101")
_CURVES: Final = (SECP256R1, SECP384R1, SECP521R1)

#: 0.9.2342.19200300.100.1.1, userId (RFC 4519, 2.39).
_USER_ID: Final = bytes.fromhex("060a0992268993f22c640101")
#: Codecs of the string types in DirectoryString and similar types (X.680 tags).
_STRINGS: Final = {
    0x0C: "utf-8",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1E: "utf-16-be",
}

#: UTCTime has two digits for the year; 50 to 99 mean 19YY (RFC 5280, 4.1.2.5.1).
_CENTURY_TURN: Final = b"50"
_TIME_LENGTH: Final = len(b"YYYYMMDDhhmmssZ")


class Validity(NamedTuple):
    """Validity of a certificate (RFC 5280, 4.1.2.5), in seconds since 1970 (UTC)."""

    begin: int
    end: int


def read_certificate(data: bytes) -> tuple[str | None, NodeCertificate, Validity]:
    """Read one certificate.

    Args:
        data: DER of the certificate, nothing after it.

    Returns:
        The node id (the first UID of the subject, None if it has none), the part that verifies
        the node's signatures, and the validity.

    Raises:
        ValueError: not a certificate, or its key is weak or of an unsupported kind; one line.
    """
    fields = _walk(data)
    spki = data[fields.key : fields.end]
    load_public_key(spki)
    issuer = data[fields.issuer : fields.validity]
    sid = der.encode(der.SEQUENCE, issuer, data[fields.serial : fields.signature])
    validity = _validity(data, fields.validity, fields.subject)
    return _user_id(data, fields.subject, fields.key), NodeCertificate(sid, spki), validity


class _Fields(NamedTuple):
    """Offsets of the elements of a TBSCertificate (RFC 5280, 4.1); each ends at the next."""

    serial: int
    signature: int
    issuer: int
    validity: int
    subject: int
    key: int
    end: int


def _walk(data: bytes) -> _Fields:
    at = der.last(data, 0, der.SEQUENCE, len(data))
    at, end = der.content(data, at, der.SEQUENCE, len(data))
    if der.tag(data, at, end) == der.CONTEXT_0:
        at = der.content(data, at, der.CONTEXT_0, end)[1]
    signature = der.content(data, at, der.INTEGER, end)[1]
    issuer = der.content(data, signature, der.SEQUENCE, end)[1]
    validity = der.content(data, issuer, der.SEQUENCE, end)[1]
    subject = der.content(data, validity, der.SEQUENCE, end)[1]
    key = der.content(data, subject, der.SEQUENCE, end)[1]
    return _Fields(
        at, signature, issuer, validity, subject, key, der.content(data, key, der.SEQUENCE, end)[1]
    )


def load_public_key(spki: bytes) -> NodeKey:
    """Return the public key of a DER SubjectPublicKeyInfo.

    Raises:
        ValueError: not a key, RSA shorter than 2048 bits or with a small exponent, a curve other
            than P-256, P-384 and P-521, or another kind of key (including RSA restricted to
            PSS); one line.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the public key cannot be read") from error
    match key:
        case RSAPublicKey():
            _check_rsa(key, spki)
            return key
        case EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return key
        case Ed25519PublicKey():
            return key
        case _:
            raise ValueError("the key is neither RSA nor ECDSA (P-256, P-384, P-521) nor Ed25519")


def _check_rsa(key: RSAPublicKey, spki: bytes) -> None:
    algorithm = der.content(spki, 0, der.SEQUENCE, len(spki))[0]
    algorithm = der.content(spki, algorithm, der.SEQUENCE, len(spki))[0]
    if not spki.startswith(_RSA_ENCRYPTION, algorithm):
        raise ValueError("the RSA key is restricted to PSS, which agents never use")
    if key.key_size < MIN_RSA_BITS:
        raise ValueError(f"the RSA key has {key.key_size} bits, at least {MIN_RSA_BITS} are needed")
    exponent = key.public_numbers().e
    if exponent < MIN_RSA_EXPONENT:
        raise ValueError(f"the RSA key has the exponent {exponent}, which is too small")


def _user_id(data: bytes, name: int, end: int) -> str | None:
    for attribute, stop in _attributes(data, name, end):
        if data.startswith(_USER_ID, attribute):
            return _string(data, attribute + len(_USER_ID), stop) or None
    return None


def _attributes(data: bytes, name: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each attribute of a Name (RFC 5280, 4.1.2.4)."""
    at = der.last(data, name, der.SEQUENCE, end)
    while at < end:
        attribute, at = der.content(data, at, der.SET, end)
        while attribute < at:
            start, attribute = der.content(data, attribute, der.SEQUENCE, at)
            yield start, attribute


def _string(data: bytes, at: int, end: int) -> str:
    tag = der.tag(data, at, end)
    codec = _STRINGS.get(tag)
    if codec is None:
        raise der.DerError(f"the UID is not text, but has tag {tag:#04x}")
    return data[der.last(data, at, tag, end) : end].decode(codec)


def _validity(data: bytes, at: int, end: int) -> Validity:
    begin = der.last(data, at, der.SEQUENCE, end)
    middle = der.content(data, begin, der.tag(data, begin, end), end)[1]
    return Validity(_time(data, begin, middle), _time(data, middle, end))


def _time(data: bytes, at: int, end: int) -> int:
    """Return a Time (RFC 5280, 4.1.2.5) in seconds since 1970."""
    tag = der.tag(data, at, end)
    text = data[der.last(data, at, tag, end) : end]
    if tag == der.UTC_TIME:
        text = (b"19" if text >= _CENTURY_TURN else b"20") + text
    elif tag != der.GENERALIZED_TIME:
        raise der.DerError(f"a bound of the validity is not a time, but has tag {tag:#04x}")
    if not (len(text) == _TIME_LENGTH and text[:-1].isdigit() and text.endswith(b"Z")):
        raise ValueError("a bound of the validity is not YYYYMMDDhhmmssZ")
    month, day, hour, minute, second = (int(text[i : i + 2]) for i in range(4, 14, 2))
    return calendar.timegm((int(text[:4]), month, day, hour, minute, second))
