"""The in-process signer, compared with the openssl command it replaces."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from relayd.commands.demo.fleet.signing import RunLogSigner
from relayd.runlog.signature.cms import Digest
from tests.support.openssl import OpenSSL
from tests.support.signing import make_key_and_cert, rsa_key

NODE = make_key_and_cert("signing-node")
TEXT = b"R: @@Common@@log_info@@text\r\nsecond line\r\n"


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSSL:
    return OpenSSL(tmp_path)


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("text", [TEXT, b"", b"no end", b"a\r\r\nb\n\n\n", b"x" * 5000 + b"\r"])
def test_signer_writes_what_openssl_writes(digest: Digest, text: bytes, openssl: OpenSSL) -> None:
    """The message equals the command's except for the random boundary."""
    message = openssl.sign(text, NODE, "-text", "-nocerts", "-md", digest)
    now = int(datetime.now(UTC).timestamp())
    signer = NODE.signer(digest)

    # The signing time is when openssl ran, within the last minute.
    assert any(
        without_boundary(signer.sign(text, at=datetime.fromtimestamp(second, UTC)))
        == without_boundary(message)
        for second in range(now, now - 60, -1)
    )


def without_boundary(message: bytes) -> bytes:
    boundary = message.split(b'boundary="')[1].split(b'"')[0]
    return message.replace(boundary, b"")


def test_message_signed_with_ecdsa_satisfies_openssl(openssl: OpenSSL) -> None:
    """OpenSSL accepts messages signed with an ECDSA key."""
    node = make_key_and_cert("signing-ec", key=ec.generate_private_key(ec.SECP384R1()))

    assert openssl.verify(node.signer("sha384").sign(TEXT), node) == TEXT


def test_two_messages_differ_in_their_boundary() -> None:
    """Boundaries are random, so no text can contain the boundary of its own message."""
    signer = NODE.signer()

    assert signer.sign(TEXT).splitlines()[1] != signer.sign(TEXT).splitlines()[1]


def test_text_with_nul_is_not_signed() -> None:
    """A text with NUL, where the command would truncate the line, is rejected."""
    with pytest.raises(ValueError, match="NUL"):
        NODE.signer().sign(b"a\0b")


def test_a_weak_key_is_rejected() -> None:
    """A signer cannot be made for a certificate that relayd would not accept."""
    weak = make_key_and_cert("signing-weak", key=rsa_key("weak", 1024))

    with pytest.raises(ValueError, match="1024 bits"):
        RunLogSigner(rsa_key("weak", 1024), x509.load_der_x509_certificate(weak.cert_der))
