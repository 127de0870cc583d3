"""Certificates that others issued, for tests of whom a TLS client believes."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.signing import SigningNode, make_key_and_cert


def authority(name: str) -> SigningNode:
    """Return a self-signed certificate that may issue others."""
    subject = _subject(NameOID.USER_ID, name)
    return _certify(name, subject, None, x509.BasicConstraints(ca=True, path_length=None))


def issue(issuer: SigningNode, node_id: str) -> SigningNode:
    """Return a certificate signed by a node that is not allowed to sign others."""
    return _certify(node_id, _subject(NameOID.USER_ID, node_id), issuer, None)


def issue_for_host(issuer: SigningNode, host: str) -> SigningNode:
    """Return a certificate for a host name."""
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    return _certify(f"host {host}", _subject(NameOID.COMMON_NAME, host), issuer, names)


def _subject(kind: x509.ObjectIdentifier, name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, name)])


def _certify(
    name: str,
    subject: x509.Name,
    issuer: SigningNode | None,
    extension: x509.ExtensionType | None,
) -> SigningNode:
    own = make_key_and_cert(name)
    signer = own.key if issuer is None else issuer.key
    assert not isinstance(signer, ed25519.Ed25519PrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.x509.subject)
        .public_key(own.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    pem, der = certificate.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.DER)
    return SigningNode(name, own.key, own.key_pem, pem, der)
