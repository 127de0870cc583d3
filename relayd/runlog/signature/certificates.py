"""Agent certificates (X.509, RFC 5280): the fields that identify a node and verify its signatures.

Trust is by pinning, so nothing is verified here: neither the signature of a certificate nor its
dates nor any chain. Reading them takes two thirds of the time of `cryptography.x509`, which would
also refuse 195 of 20,000 damaged certificates for faults in fields that are not used, and accept 5
with an even modulus (measured by `benchmarks/libraries.py`); and a relay, which reads the
certificates of its nodes too, does without the library and its 10 MB.
"""

import calendar
from collections.abc import Iterator
from typing import Final, NamedTuple

from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature import der

MIN_RSA_BITS: Final = 2048
#: CFEngine's old key generator used 35; 3 is the exponent that known forgeries need.
MIN_RSA_EXPONENT: Final = 17

#: Object identifiers of the kinds of keys, DER (RFC 8017, A.1 and RFC 5480, 2.1 and RFC 8410, 3).
_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_RSA_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_ED25519: Final = bytes.fromhex("06032b6570")
_EC: Final = "06072a8648ce3d0201"
_NULL: Final = b"\x05\0"
#: AlgorithmIdentifier without its header → bytes of a coordinate, of P-256, P-384 and P-521.
_CURVES: Final = {
    bytes.fromhex(_EC + "06082a8648ce3d030107"): 32,
    bytes.fromhex(_EC + "06052b81040022"): 48,
    bytes.fromhex(_EC + "06052b81040023"): 66,
}
_ED25519_SIZE: Final = 32

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
    check_key(spki)
    issuer = data[fields.issuer : fields.validity]
    sid = der.encode(der.SEQUENCE, issuer, data[fields.serial : fields.signature])
    validity = _validity(data, fields.validity, fields.subject)
    return _user_id(data, fields.subject, fields.key), NodeCertificate(sid, spki), validity


def read_validity(data: bytes) -> Validity:
    """Return the validity of a certificate, whatever its key and its subject.

    Args:
        data: DER of the certificate, nothing after it.

    Raises:
        ValueError: not a certificate; one line.
    """
    fields = _walk(data)
    return _validity(data, fields.validity, fields.subject)


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


def check_key(spki: bytes) -> None:
    """Check the kind and the strength of a public key by its encoding.

    Whether a point is on its curve is known only when the key is loaded.

    Args:
        spki: DER of its SubjectPublicKeyInfo (RFC 5280, 4.1).

    Raises:
        ValueError: not a key, RSA shorter than 2048 bits or with a small exponent, a curve other
            than P-256, P-384 and P-521, or another kind of key (including RSA restricted to
            PSS); one line.
    """
    try:
        at = der.last(spki, 0, der.SEQUENCE, len(spki))
        at, end = der.content(spki, at, der.SEQUENCE, len(spki))
        algorithm = spki[at:end]
        start = der.last(spki, end, der.BIT_STRING, len(spki))
        numbers = _rsa_numbers(spki, start + 1) if algorithm in (_RSA, _RSA + _NULL) else None
    except der.DerError as error:
        raise ValueError("the public key cannot be read") from error
    if numbers is not None:
        _check_rsa(*numbers)
    elif algorithm.startswith(_RSA_PSS):
        raise ValueError("the RSA key is restricted to PSS, which agents never use")
    elif algorithm != _ED25519 and algorithm not in _CURVES:
        raise ValueError("the key is neither RSA nor ECDSA (P-256, P-384, P-521) nor Ed25519")
    if spki[start : start + 1] != b"\0" or not _has_key_of(algorithm, spki[start + 1 :]):
        raise ValueError("the public key cannot be read")


def _rsa_numbers(data: bytes, at: int) -> tuple[bytes, bytes]:
    """Return the modulus and the exponent of an RSAPublicKey (RFC 8017, A.1.1), big endian."""
    at = der.last(data, at, der.SEQUENCE, len(data))
    start, end = der.content(data, at, der.INTEGER, len(data))
    exponent = der.last(data, end, der.INTEGER, len(data))
    return data[start:end], data[exponent:]


def _check_rsa(modulus: bytes, exponent: bytes) -> None:
    if not (_is_positive_odd(modulus) and _is_positive_odd(exponent)):
        raise ValueError("the public key cannot be read")
    bits = 8 * (len(modulus) - 1) + modulus[0].bit_length()
    if bits < MIN_RSA_BITS:
        raise ValueError(f"the RSA key has {bits} bits, at least {MIN_RSA_BITS} are needed")
    if len(exponent) == 1 and exponent[0] < MIN_RSA_EXPONENT:
        raise ValueError(f"the RSA key has the exponent {exponent[0]}, which is too small")


def _is_positive_odd(number: bytes) -> bool:
    """Return whether an INTEGER, encoded as short as possible, is positive and odd."""
    if number[:1] == b"\0" and number[1:2] < b"\x80":
        return False
    return bool(number) and number[0] < 0x80 and number[-1] % 2 == 1


def _has_key_of(algorithm: bytes, key: bytes) -> bool:
    """Return whether a key has the form that its algorithm requires (SEC 1, 2.3.3); RSA always."""
    if algorithm == _ED25519:
        return len(key) == _ED25519_SIZE
    size = _CURVES.get(algorithm)
    if size is None:
        return True
    whole = key.startswith((b"\x04", b"\x06", b"\x07")) and len(key) == 1 + 2 * size
    compressed = key.startswith((b"\x02", b"\x03")) and len(key) == 1 + size
    return whole or compressed


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
