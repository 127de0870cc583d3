"""Signing of run logs in this process, for the simulated fleet and for tests.

The result is byte for byte what `openssl smime -sign -text -nocerts -md sha256 -signer CERT -inkey
KEY`, as agents call it, writes in OpenSSL 3, except for the random boundary.
"""

import hashlib
import secrets
from binascii import b2a_base64
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from relayd.runlog.signature import cms, der, mime
from relayd.runlog.signature.certificates import read_certificate

_MICALG: Final[dict[cms.Digest, str]] = {
    "sha256": "sha-256",
    "sha384": "sha-384",
    "sha512": "sha-512",
}
_HASHES: Final[dict[cms.Digest, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
#: The ciphers that OpenSSL lists as supported (RFC 8551, 2.5.2): AES-256, -192, -128, 3DES, RC2
#: with 128 and 64 bits, DES, RC2 with 40 bits. Nobody reads the list, but it is signed.
_CAPABILITIES: Final = bytes.fromhex(
    "306a300b060960864801650304012a300b0609608648016503040116300b0609608648016503040102"
    "300a06082a864886f70d0307300e06082a864886f70d030202020080300d06082a864886f70d0302020140"
    "300706052b0e030207300d06082a864886f70d0302020128"
)
_BASE64_STRIDE: Final = 48


class RunLogSigner:
    """Signs run logs of one node.

    Args:
        key: the node's private key; RSA, as agents use, or ECDSA.
        certificate: the node's certificate for that key.
        digest: digest, as in the command's `-md`.

    Raises:
        ValueError: relayd would not accept the certificate.
    """

    def __init__(
        self,
        key: RSAPrivateKey | EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        *,
        digest: cms.Digest = "sha256",
    ) -> None:
        self._key = key
        self._digest = digest
        self._sid = read_certificate(certificate.public_bytes(Encoding.DER))[1].sid
        self._algorithm = der.encode(der.SEQUENCE, cms.DIGEST_OIDS[digest], cms.NULL)

    def sign(self, text: bytes, *, at: datetime | None = None) -> bytes:
        """Return the signed message for this run log.

        Args:
            text: the agent's output, with any line ends, without NUL.
            at: the signing time, with time zone; None: now.

        Raises:
            ValueError: the text contains NUL, where the command would truncate the line.
        """
        if b"\0" in text:
            raise ValueError("a run log with NUL cannot be signed")
        signed = mime.add_text_header(text)
        boundary = f"----{secrets.token_hex(16).upper()}"
        signature = self._signed_data(signed, at or datetime.now(UTC))
        return wrap(signed, signature, _MICALG[self._digest], boundary)

    def _signed_data(self, signed: bytes, at: datetime) -> bytes:
        attributes = self._attributes(signed, at)
        scheme, signature = self._signature(der.encode(der.SET, attributes))
        signer = der.encode(
            der.SEQUENCE,
            cms.VERSION_1,
            self._sid,
            self._algorithm,
            der.encode(der.CONTEXT_0, attributes),
            scheme,
            der.encode(der.OCTET_STRING, signature),
        )
        digests = der.encode(der.SET, self._algorithm)
        signers = der.encode(der.SET, signer)
        data = der.encode(der.SEQUENCE, cms.VERSION_1, digests, cms.DETACHED, signers)
        return der.encode(der.SEQUENCE, cms.SIGNED_DATA, der.encode(der.CONTEXT_0, data))

    def _attributes(self, signed: bytes, at: datetime) -> bytes:
        digest = hashlib.new(self._digest, signed).digest()
        time = at.astimezone(UTC).strftime("%y%m%d%H%M%SZ").encode("ascii")
        values = {
            cms.CONTENT_TYPE: cms.DATA,
            cms.SIGNING_TIME: der.encode(der.UTC_TIME, time),
            cms.MESSAGE_DIGEST: der.encode(der.OCTET_STRING, digest),
            cms.SMIME_CAPABILITIES: _CAPABILITIES,
        }
        attributes = (
            der.encode(der.SEQUENCE, oid, der.encode(der.SET, value))
            for oid, value in values.items()
        )
        return b"".join(sorted(attributes))

    def _signature(self, data: bytes) -> tuple[bytes, bytes]:
        algorithm = _HASHES[self._digest]
        if isinstance(self._key, RSAPrivateKey):
            scheme = der.encode(der.SEQUENCE, cms.RSA_OID, cms.NULL)
            return scheme, self._key.sign(data, PKCS1v15(), algorithm)
        scheme = der.encode(der.SEQUENCE, cms.ECDSA_OIDS[self._digest])
        return scheme, self._key.sign(data, ECDSA(algorithm))


def wrap(signed: bytes, signature: bytes, micalg: str, boundary: str) -> bytes:
    """Return the multipart message of a signed part and its signature.

    Args:
        signed: the first part in canonical form, with its header, lines ended by CRLF.
        signature: the ContentInfo with SignedData, in DER.
        micalg: name of the digest, for example `sha-256`.
        boundary: boundary between the parts, without the leading `--`.
    """
    strides = range(0, len(signature), _BASE64_STRIDE)
    base64 = b"".join(b2a_base64(signature[i : i + _BASE64_STRIDE]) for i in strides)
    separator = f"\n--{boundary}".encode("ascii")
    head = (
        "MIME-Version: 1.0\n"
        'Content-Type: multipart/signed; protocol="application/x-pkcs7-signature";'
        f' micalg="{micalg}"; boundary="{boundary}"\n\n'
        "This is an S/MIME signed message\n"
    ).encode("ascii")
    signature_head = (
        b'\nContent-Type: application/x-pkcs7-signature; name="smime.p7s"\n'
        b"Content-Transfer-Encoding: base64\n"
        b'Content-Disposition: attachment; filename="smime.p7s"\n\n'
    )
    parts = (head, b"\n" + signed, signature_head + base64)
    return separator.join(parts) + separator + b"--\n\n"
