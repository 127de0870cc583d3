"""A machine of the demo: its key, its certificate, its signature."""

import hashlib
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from relayd.commands.demo.fleet.signing import RunLogSigner

_LIFETIME: Final = timedelta(days=3650)
_SECOND: Final = timedelta(seconds=1)


class SimulatedNode:
    """A machine with an agent: a managed node or a policy server.

    Attributes:
        node_id: its id.
        hostname: its host name.
        key_hash: SHA-256 of its public key, in hexadecimal.
        certificate: its self-signed X.509 certificate; the UID of the subject is the node id.
    """

    def __init__(
        self, key: RSAPrivateKey, hostname: str, now: datetime, node_id: str | None = None
    ) -> None:
        """Make a certificate for the key.

        Args:
            key: its private key.
            hostname: its host name.
            now: start of the certificate's validity.
            node_id: its id; None: derive it from the key.
        """
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_hash = hashlib.sha256(public).hexdigest()
        self.node_id = node_id or str(UUID(self.key_hash[:32], version=4))
        self.hostname = hostname
        self.certificate = _certify(key, self.node_id, now)
        self._key = key
        self._signer = RunLogSigner(key, self.certificate)
        self._last = now.replace(microsecond=0) - _SECOND

    def next_start(self, now: datetime) -> datetime:
        """Return START of its next run: now, but never the same second twice."""
        self._last = max(now.replace(microsecond=0), self._last + _SECOND)
        return self._last

    def sign(self, text: bytes) -> bytes:
        """Return a run log as the S/MIME message that its agent would send."""
        return self._signer.sign(text)

    def entry(self, policy_server: str) -> dict[str, str]:
        """Return its entry in the nodes list, as a node of this policy server."""
        return {
            "hostname": self.hostname,
            "policy-server": policy_server,
            "key-hash": f"sha256:{self.key_hash}",
        }

    def certificate_pem(self) -> bytes:
        """Return its certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return its private key as PEM, not encrypted."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certify(key: RSAPrivateKey, node_id: str, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, node_id)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SECOND)
        .not_valid_after(now + _LIFETIME)
        .sign(key, SHA256())
    )
