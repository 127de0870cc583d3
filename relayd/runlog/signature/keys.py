"""Public keys, loaded for a verification.

A relay has no use for this module, and for the 10 MB of its library, until a shared file arrives.
"""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import load_der_public_key

from relayd.runlog.signature.certificates import check_key

NodeKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


def load_public_key(spki: bytes) -> NodeKey:
    """Return the public key of a DER SubjectPublicKeyInfo (RFC 5280, 4.1).

    Raises:
        ValueError: as by `check_key`, or its numbers are not those of a key; one line.
    """
    check_key(spki)
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the public key cannot be read") from error
    assert isinstance(key, NodeKey)
    return key


def describe_key(spki: bytes) -> str:
    """Return kind and size of a DER SubjectPublicKeyInfo, as "RSA-4096", "P-256" or "Ed25519"."""
    try:
        key = load_public_key(spki)
    except ValueError as error:
        return str(error)
    if isinstance(key, RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, EllipticCurvePublicKey):
        return f"P-{key.key_size}"
    return "Ed25519"


def is_rsa_signature(spki: bytes, signature: bytes, digest: bytes, algorithm: str) -> bool:
    """Return whether a signature (PKCS #1 v1.5, RFC 8017, 8.2) matches a digest and an RSA key.

    Args:
        spki: DER of the key's SubjectPublicKeyInfo; any key that is not usable matches nothing.
        signature: the signature.
        digest: hash of the content.
        algorithm: `sha256` or `sha512`, of the digest.
    """
    hashed = Prehashed(SHA256() if algorithm == "sha256" else SHA512())
    try:
        key = load_public_key(spki)
        if not isinstance(key, RSAPublicKey):
            return False
        key.verify(signature, digest, PKCS1v15(), hashed)
    except (InvalidSignature, ValueError):
        return False
    return True
