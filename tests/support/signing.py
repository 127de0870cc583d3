"""Nodes that can sign: keys and certificates made as an agent makes its own, cached by name."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from relayd.commands.demo.fleet.signing import RunLogSigner
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import read_certificate
from relayd.runlog.signature.cms import Digest

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

#: All certificates made here are valid around now, whatever the clock of a test says.
VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
VALID_TO = datetime(2050, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SigningNode:
    """A node with its key and certificate."""

    node_id: str
    key: PrivateKey
    key_pem: bytes
    cert_pem: bytes
    cert_der: bytes

    @functools.cached_property
    def certificate(self) -> NodeCertificate:
        """What `read_certificate` makes of it."""
        return read_certificate(self.cert_der)[1]

    @functools.cached_property
    def x509(self) -> x509.Certificate:
        """The certificate as an object of `cryptography`."""
        return x509.load_der_x509_certificate(self.cert_der)

    def signer(self, digest: Digest = "sha256") -> RunLogSigner:
        """Return what signs run logs for this node; not for Ed25519."""
        assert not isinstance(self.key, ed25519.Ed25519PrivateKey)
        return RunLogSigner(self.key, self.x509, digest=digest)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write both PEM files into the directory; return the certificate's and the key's path."""
        cert, key = directory / f"{self.node_id}.cert", directory / f"{self.node_id}.priv"
        cert.write_bytes(self.cert_pem)
        key.write_bytes(self.key_pem)
        return cert, key


@functools.cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the RSA key of this name, the same one for the whole test session."""
    return rsa.generate_private_key(65537, bits)


def make_key_and_cert(
    node_id: str,
    bits: int = 2048,
    *,
    key: PrivateKey | None = None,
    serial: int | None = None,
    not_before: datetime = VALID_FROM,
    not_after: datetime = VALID_TO,
    subject: x509.Name | None = None,
) -> SigningNode:
    """Return a node with a self-signed certificate whose subject is `UID=node_id`.

    Args:
        node_id: also the name of its key: the same id gets the same key again.
        bits: length of the RSA key.
        key: another key instead.
        serial: serial number of the certificate; random when None.
        not_before: begin of validity, with time zone; ten years before its end at the latest.
        not_after: end of validity, with time zone.
        subject: another subject, also the issuer.
    """
    key = key or rsa_key(node_id, bits)
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, node_id)]) if subject is None else subject
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(min(not_before, not_after - timedelta(days=3650)))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .sign(key, algorithm)
    )
    return SigningNode(
        node_id,
        key,
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
        certificate.public_bytes(Encoding.DER),
    )


def sign_runlog(text: bytes, node: SigningNode, digest: Digest = "sha256") -> bytes:
    """Return the run log signed as the node's `openssl smime -sign -text -nocerts` does it."""
    return node.signer(digest).sign(text)
