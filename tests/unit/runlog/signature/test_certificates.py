import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from relayd.runlog.signature.certificates import check_key, read_certificate
from relayd.runlog.signature.keys import load_public_key
from tests.support.signing import PrivateKey, make_key_and_cert, rsa_key

PSS = bytes.fromhex("06092a864886f70d01010a")
NODE = "e3a1b2c4-0d5e-4f60-8a7b-9c8d7e6f5a4b"

STRONG = [
    pytest.param(lambda: rsa_key(NODE), id="RSA-2048"),
    pytest.param(lambda: ec.generate_private_key(ec.SECP256R1()), id="P-256"),
    pytest.param(lambda: ec.generate_private_key(ec.SECP521R1()), id="P-521"),
    pytest.param(ed25519.Ed25519PrivateKey.generate, id="Ed25519"),
]


def spki(key: PrivateKey | dsa.DSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def user_id(value: str, kind: _ASN1Type | None = None) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.USER_ID, value, kind)


def test_certificate_of_an_agent_gives_node_key_and_validity() -> None:
    """The UID, the public key and both ends of the validity are those of the certificate."""
    made = make_key_and_cert(NODE, not_after=datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC))

    node_id, certificate, validity = read_certificate(made.cert_der)

    assert node_id == NODE
    assert certificate.spki == spki(made.key)
    assert validity.begin == made.x509.not_valid_before_utc.timestamp()
    assert validity.end == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2049, 2050, 9999])
def test_end_of_validity_is_read_in_both_forms_of_time(year: int) -> None:
    """Years written with two digits and with four are both read."""
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    made = make_key_and_cert(NODE, not_after=end)

    assert read_certificate(made.cert_der)[2].end == end.timestamp()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param([user_id("a")], "a", id="alone"),
        pytest.param(
            [x509.NameAttribute(NameOID.COMMON_NAME, "cn"), user_id("é-node")], "é-node", id="last"
        ),
        pytest.param([user_id("first"), user_id("second")], "first", id="two"),
        pytest.param([user_id("p", _ASN1Type.PrintableString)], "p", id="PrintableString"),
        pytest.param([user_id("i", _ASN1Type.IA5String)], "i", id="IA5String"),
        pytest.param([user_id("b", _ASN1Type.BMPString)], "b", id="BMPString"),
        pytest.param([x509.NameAttribute(NameOID.COMMON_NAME, "cn")], None, id="absent"),
        pytest.param([], None, id="empty subject"),
    ],
)
def test_node_id_is_the_first_uid_of_the_subject(
    attributes: list[x509.NameAttribute[str]], expected: str | None
) -> None:
    """The UID is found among other attributes and in every type of string; it may be missing."""
    made = make_key_and_cert(NODE, subject=x509.Name(attributes))

    assert read_certificate(made.cert_der)[0] == expected


def test_uid_is_found_in_a_multi_valued_rdn() -> None:
    """A UID that shares its RDN with another attribute is found too."""
    rdn = x509.RelativeDistinguishedName(
        [x509.NameAttribute(NameOID.COMMON_NAME, "cn"), user_id("shared")]
    )
    made = make_key_and_cert(NODE, subject=x509.Name([rdn]))

    assert read_certificate(made.cert_der)[0] == "shared"


@pytest.mark.fault("C23")
@pytest.mark.parametrize(
    ("make", "detail"),
    [
        pytest.param(lambda: rsa_key("weak", 1024), "1024 bits", id="RSA-1024"),
        pytest.param(lambda: rsa.generate_private_key(3, 2048), "exponent 3", id="RSA e=3"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256K1()), "neither", id="secp256k1"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP192R1()), "neither", id="P-192"),
    ],
)
def test_weak_and_unusual_keys_are_refused(make: Callable[[], PrivateKey], detail: str) -> None:
    """A certificate with a weak key, or a curve that is not on the list, is not usable."""
    made = make_key_and_cert("weak", key=make())

    with pytest.raises(ValueError, match=detail):
        read_certificate(made.cert_der)


@pytest.mark.fault("C23")
@pytest.mark.parametrize("make", STRONG)
def test_strong_keys_are_accepted(make: Callable[[], PrivateKey]) -> None:
    """RSA from 2048 bits, the NIST curves and Ed25519 are usable."""
    key = make()

    assert read_certificate(make_key_and_cert(NODE, key=key).cert_der)[1].spki == spki(key)


@pytest.mark.fault("C23")
def test_other_kinds_of_key_are_refused() -> None:
    """A DSA key, a key restricted to PSS and bytes that are no key are not usable."""
    good = spki(rsa_key(NODE))
    pss = good.replace(bytes.fromhex("06092a864886f70d010101"), PSS)
    for key in (
        spki(dsa.generate_private_key(2048)),
        pss,
        good[:-1],
        good + b"\0",
        b"",
        b"\x30\x00",
    ):
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
            load_public_key(key)


@pytest.mark.fault("C23")
@pytest.mark.parametrize("make", STRONG)
def test_damaged_keys_are_refused_as_by_the_library(make: Callable[[], PrivateKey]) -> None:
    """What the library refuses is refused when it is read, or for a point when it is loaded."""
    whole = spki(make())
    chance = random.Random(2)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[chance.randrange(min(len(whole), 60))] ^= 1 << chance.randrange(8)
        try:
            check_key(bytes(damaged))
        except ValueError:
            assert _library_refuses(bytes(damaged))
        else:
            assert bytes(damaged[:20]) == whole[:20] or not _library_refuses(bytes(damaged))


def _library_refuses(key: bytes) -> bool:
    """Return whether a key is none for the library, or weak, or none that agents have."""
    try:
        loaded = load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        return True
    if isinstance(loaded, rsa.RSAPublicKey):
        numbers = loaded.public_numbers()
        even = numbers.n % 2 == 0 or numbers.e % 2 == 0
        return even or numbers.e < 17 or loaded.key_size < 2048 or PSS in key
    if isinstance(loaded, ec.EllipticCurvePublicKey):
        return loaded.curve.name not in {"secp256r1", "secp384r1", "secp521r1"}
    return not isinstance(loaded, ed25519.Ed25519PublicKey)


@pytest.mark.fault("C23")
def test_a_point_beside_its_curve_verifies_nothing() -> None:
    """Such a key is refused when it is loaded; a compressed point is a point as well."""
    key = ec.generate_private_key(ec.SECP256R1())
    good = spki(key)
    bad = good[:-1] + bytes([good[-1] ^ 1])
    check_key(bad)
    with pytest.raises(ValueError, match="cannot be read"):
        load_public_key(bad)
    short = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    load_public_key(good[:23].replace(b"\x30\x59", b"\x30\x39") + b"\x03\x22\0" + short)


def test_every_truncation_is_refused_in_one_line() -> None:
    """No truncated certificate is read, and each error is one line."""
    whole = make_key_and_cert(NODE).cert_der
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
            read_certificate(whole[:length])
    with pytest.raises(ValueError, match="too many"):
        read_certificate(whole + b"\0")


def test_damaged_certificate_is_read_or_refused() -> None:
    """For any damaged byte, the only error is the documented one."""
    whole = make_key_and_cert(NODE).cert_der
    chance = random.Random(1)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        with contextlib.suppress(ValueError):
            read_certificate(bytes(damaged))
