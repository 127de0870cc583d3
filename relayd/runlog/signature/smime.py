"""Verification of signed run logs, as by `openssl smime -verify`.

The result has the same bytes as the output of
`openssl smime -verify -noverify -nointern -certfile CERTS -text`, and every message that this
command refuses is refused. So is much that it accepts: only the forms that agents write pass, all
of them are checked before the signature, and no text is returned before that.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from relayd.errors import Reason, Refused
from relayd.runlog.model import NodeCertificate, Verified
from relayd.runlog.signature.cms import Digest, Signer, read_signed_data
from relayd.runlog.signature.der import DerError
from relayd.runlog.signature.keys import load_public_key
from relayd.runlog.signature.mime import MimeError, split, text_of

#: Spellings of a digest in `micalg` (RFC 8551, 3.5.3.2, and the older one).
_MICALG: Final[dict[str, Digest]] = {
    "sha-256": "sha256",
    "sha256": "sha256",
    "sha-384": "sha384",
    "sha384": "sha384",
    "sha-512": "sha512",
    "sha512": "sha512",
}
_HASHES: Final[dict[Digest, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ECDSA: Final = {name: ECDSA(algorithm) for name, algorithm in _HASHES.items()}
_PKCS1: Final = PKCS1v15()

#: A key takes 3.5 kB (RSA-4096); without the cache, a verification takes an eighth longer.
_public_key = functools.lru_cache(maxsize=4096)(load_public_key)


def verify(message: bytes, certificates: Sequence[NodeCertificate]) -> Verified | Refused:
    """Verify that a message is signed with the key of one of these certificates.

    Args:
        message: the whole file, decompressed.
        certificates: those of the node in the file's name.

    Returns:
        The signed text and the index of the certificate that matched, or the refusal.
    """
    if not message or message.isspace():
        return Refused(Reason.EMPTY, "the file is empty", maybe_unfinished=True)
    try:
        parts = split(message)
        text = text_of(parts.signed)
    except MimeError as error:
        return Refused(Reason.MIME, str(error), error.maybe_unfinished)
    try:
        signer = read_signed_data(parts.signature)
    except DerError as error:
        return Refused(Reason.SIGNATURE, f"the signature cannot be used: {error}")
    if parts.micalg and _MICALG.get(parts.micalg) != signer.digest:
        return Refused(
            Reason.MIME, f"micalg in the header does not match the digest {signer.digest}"
        )
    matching = [i for i, known in enumerate(certificates) if known.sid == signer.sid]
    if not matching:
        return Refused(Reason.UNKNOWN_SIGNER, "signed with a certificate that is not the node's")
    if hashlib.new(signer.digest, parts.signed).digest() != signer.message_digest:
        return Refused(Reason.SIGNATURE, "the text is not the one that was signed")
    for index in matching:
        if _signed_by(certificates[index].spki, signer):
            return _verified(text, index)
    return Refused(Reason.SIGNATURE, "the signature does not match the key of the certificate")


def _verified(text: bytes, index: int) -> Verified | Refused:
    if not text:
        return Refused(Reason.EMPTY, "the signed text is empty")
    return Verified(text, index)


def _signed_by(spki: bytes, signer: Signer) -> bool:
    try:
        key = _public_key(spki)
    except ValueError:
        return False
    try:
        if signer.scheme == "rsa" and isinstance(key, RSAPublicKey):
            algorithm = _HASHES[signer.digest]
            key.verify(signer.signature, signer.signed_attributes, _PKCS1, algorithm)
            return True
        if signer.scheme == "ecdsa" and isinstance(key, EllipticCurvePublicKey):
            key.verify(signer.signature, signer.signed_attributes, _ECDSA[signer.digest])
            return True
    except InvalidSignature:
        return False
    return False
