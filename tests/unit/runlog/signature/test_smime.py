"""Verdicts on whole messages; the openssl command gives the second opinion."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.runlog.model import NodeCertificate, Verified
from relayd.runlog.signature.smime import verify
from tests.support import cms
from tests.support.openssl import OpenSSL
from tests.support.signing import SigningNode, make_key_and_cert, rsa_key, sign_runlog

NODE = make_key_and_cert("smime-node")
OTHER = make_key_and_cert("smime-other")
EC = make_key_and_cert("smime-ec", key=ec.generate_private_key(ec.SECP256R1()))
TEXT = b"R: @@Common@@log_info@@text\r\nsecond line\r\n"
MESSAGE = sign_runlog(TEXT, NODE)

#: Sharing `tmp_path` between examples does no harm.
SHARED_DIRECTORY = [HealthCheck.function_scoped_fixture]


def refusal(message: bytes, *nodes: SigningNode) -> Refused:
    """Return the refusal of a message that must not pass."""
    verdict = verify(message, [node.certificate for node in nodes or (NODE,)])
    assert isinstance(verdict, Refused)
    assert "\n" not in verdict.detail
    return verdict


def refused_by(message: bytes, certificates: list[NodeCertificate]) -> Reason:
    """Return the reason for the refusal of a message that must not pass."""
    verdict = verify(message, certificates)
    assert isinstance(verdict, Refused)
    return verdict.reason


def accepted(message: bytes, *nodes: SigningNode) -> bytes | None:
    """Return the text of a message, None if it is refused."""
    verdict = verify(message, [node.certificate for node in nodes or (NODE,)])
    return verdict.content if isinstance(verdict, Verified) else None


# Messages of agents


@pytest.mark.parametrize("node", [NODE, EC], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("command", ["smime", "cms"])
def test_message_of_the_agents_command_is_accepted(
    node: SigningNode, digest: str, command: str, openssl: OpenSSL
) -> None:
    """Messages of `openssl smime -sign` and `cms -sign` give the same text as openssl."""
    message = openssl.sign(TEXT, node, "-text", "-nocerts", "-md", digest, command=command)

    assert openssl.verify(message, node) == TEXT
    assert verify(message, [node.certificate]) == Verified(TEXT, 0)


def test_large_key_is_accepted(openssl: OpenSSL) -> None:
    """A message of an agent with its usual RSA-4096 key is accepted."""
    node = make_key_and_cert("smime-large", bits=4096)

    assert accepted(openssl.sign(TEXT, node), node) == TEXT


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("node", [NODE, EC], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("more", [[], [PKCS7Options.NoCerts]], ids=["certificates", "NoCerts"])
def test_message_of_pythons_writer_is_accepted(
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512,
    node: SigningNode,
    more: list[PKCS7Options],
    openssl: OpenSSL,
) -> None:
    """Messages of `cryptography`, with CRLF and its own boundary, give the same text as openssl."""
    assert isinstance(node.key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"one\ntwo\n")
    options = [PKCS7Options.DetachedSignature, PKCS7Options.Text, *more]
    message = builder.add_signer(node.x509, node.key, digest).sign(Encoding.SMIME, options)

    assert openssl.verify(message, node) == b"one\r\ntwo\r\n"
    assert accepted(message, node) == b"one\r\ntwo\r\n"


def test_message_written_in_text_mode_is_accepted(openssl: OpenSSL) -> None:
    """A message in which every LF became CRLF, as on Windows, gives the same text."""
    message = openssl.sign(TEXT, NODE).replace(b"\n", b"\r\n")

    assert openssl.verify(message, NODE) == TEXT
    assert accepted(message) == TEXT


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"])
def test_line_ends_after_the_closing_boundary_do_not_matter(tail: bytes) -> None:
    """A message may end with or without the empty line that openssl adds."""
    assert accepted(MESSAGE.rstrip(b"\n") + tail) == TEXT


@pytest.mark.fault("C22")
@settings(max_examples=60, deadline=None, suppress_health_check=SHARED_DIRECTORY)
@given(
    text=st.lists(
        st.sampled_from(
            [b"\r", b"\n", b"\r\n", b"\r\r\n", b"\r\n\r\n", b" \n", b"\t\r\n", b"\n.\n", b"\n-- \n"]
            + [
                b"------0123456789ABCDEF\n",
                b"--\n",
                b"\xe9\xff",
                b"a",
                b"R: @@x\n",
                b"\x1a",
                b"\x0c",
            ]
            + [b"x" * n for n in (1021, 1022, 1023, 1024, 2046)]
            + [b"Content-Type: text/plain\n\n", b"MIME-Version: 1.0\n"]
        )
        | st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"")),
        max_size=10,
    ).map(b"".join)
)
def test_any_text_gives_what_openssl_gives(text: bytes, openssl: OpenSSL) -> None:
    """A text of any bytes but NUL gives the same verdict and bytes as openssl."""
    message = openssl.sign(text, NODE)

    # From an empty text openssl makes an empty file; relayd refuses it.
    assert (accepted(message) or b"") == (openssl.verify(message, NODE) or b"")


# Certificates


def test_index_of_the_matching_certificate_is_given() -> None:
    """The verdict has the index of the certificate that matched."""
    known = [OTHER.certificate, EC.certificate, NODE.certificate]

    assert verify(MESSAGE, known) == Verified(TEXT, 2)


@pytest.mark.fault("C2")
def test_message_of_another_node_is_refused() -> None:
    """A message that another node signed, even in this node's name, is refused."""
    part = b"Content-Type: text/plain\r\n\r\n" + TEXT
    in_its_name = cms.signer_info(OTHER, part, sid=NODE.certificate.sid)

    assert refusal(sign_runlog(TEXT, OTHER)).reason is Reason.UNKNOWN_SIGNER
    assert refusal(MESSAGE, OTHER, EC).reason is Reason.UNKNOWN_SIGNER
    assert refused_by(MESSAGE, []) is Reason.UNKNOWN_SIGNER
    forged = refusal(cms.message(part, cms.signed_data(in_its_name)))
    assert forged.reason is Reason.SIGNATURE
    assert "does not match the key of the certificate" in forged.detail


@pytest.mark.fault("C3")
def test_certificates_inside_the_message_are_ignored(openssl: OpenSSL) -> None:
    """An enclosed certificate makes no signer known, and does no harm."""
    attack = openssl.sign(TEXT, OTHER, "-text", "-md", "sha256")
    harmless = openssl.sign(TEXT, NODE, "-text", "-md", "sha256")

    assert openssl.verify(attack, NODE) is None
    assert refusal(attack).reason is Reason.UNKNOWN_SIGNER
    assert openssl.verify(harmless, NODE) == accepted(harmless) == TEXT


@pytest.mark.fault("C3")
def test_certificate_inside_does_not_stand_in_for_the_pinned_one(openssl: OpenSSL) -> None:
    """An attacker's certificate with the node's issuer and serial number is not accepted."""
    serial = NODE.x509.serial_number
    double = make_key_and_cert("smime-node", key=rsa_key("attacker"), serial=serial)
    attack = openssl.sign(TEXT, double, "-text", "-md", "sha256")

    assert double.certificate.sid == NODE.certificate.sid
    assert refusal(attack).reason is Reason.SIGNATURE


@pytest.mark.fault("C20")
@pytest.mark.parametrize("order", [1, -1])
def test_every_certificate_with_the_same_number_is_tried(order: int) -> None:
    """After a rotation that kept issuer and serial number, old and new key both verify."""
    old = make_key_and_cert("smime-rotated", key=rsa_key("old"), serial=7)
    new = make_key_and_cert("smime-rotated", key=rsa_key("new"), serial=7)
    nodes = [old, new][::order]

    for node in nodes:
        verdict = verify(sign_runlog(TEXT, node), [known.certificate for known in nodes])
        assert verdict == Verified(TEXT, nodes.index(node))


def test_expired_certificate_verifies() -> None:
    """Trust is by pinning: a certificate that expired long ago still verifies."""
    expired = make_key_and_cert("smime-expired", not_after=datetime(2001, 1, 1, tzinfo=UTC))

    assert accepted(sign_runlog(TEXT, expired), expired) == TEXT


@pytest.mark.fault("C23")
def test_weak_key_verifies_nothing(openssl: OpenSSL) -> None:
    """A key of 1024 bits verifies nothing, even if its certificate is in the list."""
    weak = make_key_and_cert("smime-weak", key=rsa_key("weak", 1024))
    spki = weak.x509.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    message = openssl.sign(TEXT, weak)
    certificate = NodeCertificate(cms.issuer_and_serial(weak.x509), spki)

    assert openssl.verify(message, weak) == TEXT
    assert refused_by(message, [certificate]) is Reason.SIGNATURE


# Messages of openssl that agents do not write


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        *(
            pytest.param(
                ("-text", "-nocerts", "-md", name),
                Reason.SIGNATURE,
                marks=pytest.mark.fault("C6"),
                id=name,
            )
            for name in ("md5", "sha1", "ripemd160", "sha224")
        ),
        pytest.param(
            ("-text", "-nocerts", "-md", "sha256", "-noattr"),
            Reason.SIGNATURE,
            marks=pytest.mark.fault("C7"),
            id="without attributes",
        ),
        pytest.param(
            ("-text", "-nocerts", "-md", "sha256", "-nodetach"),
            Reason.MIME,
            marks=pytest.mark.fault("C15"),
            id="opaque",
        ),
        pytest.param(
            ("-nocerts", "-md", "sha256"),
            Reason.MIME,
            id="without the header of text",
        ),
        pytest.param(
            ("-text", "-nocerts", "-md", "sha256", "-outform", "PEM"), Reason.MIME, id="PEM"
        ),
    ],
)
def test_other_forms_of_openssl_are_refused(
    options: tuple[str, ...], reason: Reason, openssl: OpenSSL
) -> None:
    """Weak digests, missing attributes and other encodings are refused, unlike by openssl."""
    assert refusal(openssl.sign(TEXT, NODE, *options)).reason is reason


@pytest.mark.fault("C5")
def test_second_signer_is_refused(openssl: OpenSSL) -> None:
    """A message with two signers is refused, whether or not both are known."""
    certificate, key = OTHER.write(openssl.directory)
    second = ("-signer", str(certificate), "-inkey", str(key))
    message = openssl.sign(TEXT, NODE, "-text", "-nocerts", "-md", "sha256", *second)

    assert openssl.verify(message, NODE, OTHER) == TEXT
    for nodes in ([NODE, OTHER], [NODE], [OTHER]):
        assert "more than one signer" in refusal(message, *nodes).detail


@pytest.mark.fault("C14", "C15")
def test_encrypted_message_is_refused(openssl: OpenSSL) -> None:
    """EnvelopedData is refused because of its header."""
    assert refusal(openssl.encrypt(TEXT, NODE)).reason is Reason.MIME


def test_content_signed_as_it_is_is_refused(openssl: OpenSSL) -> None:
    """A digest over lines that end in LF, as from `-binary`, does not match."""
    part = b"Content-Type: text/plain\n\nline\n"
    message = cms.message(part, cms.signed_data(cms.signer_info(NODE, part)))

    assert openssl.verify(message, NODE) is None
    assert refusal(message).detail == "the text is not the one that was signed"


# Damaged and unfinished


@pytest.mark.parametrize("message", [b"", b"\n", b" \r\n\t"])
def test_empty_message_has_a_reason_of_its_own(message: bytes) -> None:
    """A file without content is refused as empty, and may be unfinished."""
    assert refusal(message) == Refused(Reason.EMPTY, "the file is empty", maybe_unfinished=True)


@pytest.mark.history(29)
def test_empty_text_has_a_reason_of_its_own(openssl: OpenSSL) -> None:
    """A correctly signed message without text is refused as empty, not for its signature."""
    verdict = refusal(openssl.sign(b"", NODE))

    assert verdict == Refused(Reason.EMPTY, "the signed text is empty")


@pytest.mark.parametrize(
    "message",
    [
        b"2018-08-24T15:55:01+00:00 R: @@Common@@control@@rudder@@run@@0@@start@@x\n",
        b"<html></html>",
        b"\x1f\x8b\x08\x00",
        b"From root@example.org Mon Jan  1 00:00:00 2026\n" + MESSAGE,
        b" " + MESSAGE,
        b"\n" + MESSAGE,
        b"\xef\xbb\xbf" + MESSAGE,
    ],
)
def test_message_that_is_not_signed_is_refused(message: bytes) -> None:
    """Text without the header of a signed message is refused as not signed."""
    verdict = refusal(message)

    assert verdict.reason is Reason.MIME
    assert verdict.detail.startswith("not signed")
    assert not verdict.maybe_unfinished


@pytest.mark.parametrize("message", [MESSAGE, MESSAGE.replace(b"\n", b"\r\n")], ids=["LF", "CRLF"])
def test_every_beginning_of_a_message_may_be_unfinished(message: bytes) -> None:
    """A message truncated anywhere is refused as possibly unfinished."""
    whole = len(message.rstrip())
    for length in range(whole):
        assert refusal(message[:length]).maybe_unfinished, length
    assert accepted(message[:whole]) == TEXT


@pytest.mark.fault("C1")
def test_every_flipped_bit_is_refused_or_changes_nothing(openssl: OpenSSL) -> None:
    """No flipped bit yields another text, and none is accepted that openssl refuses."""
    passed = []
    for place in range(len(MESSAGE)):
        for bit in range(8):
            flipped = bytearray(MESSAGE)
            flipped[place] ^= 1 << bit
            text = accepted(bytes(flipped))
            assert text in (None, TEXT)
            if text is not None:
                passed.append(bytes(flipped))
    for mutant in passed[::16]:
        assert openssl.verify(mutant, NODE) == TEXT


@pytest.mark.fault("C22")
@pytest.mark.parametrize("place", [0, 100, 400, 700, len(MESSAGE)])
def test_nul_is_refused(place: int) -> None:
    """A NUL, after which some versions of openssl drop the rest of a line, is never accepted."""
    assert refusal(MESSAGE[:place] + b"\0" + MESSAGE[place:]).reason is Reason.MIME


@pytest.mark.fault("C22")
def test_nul_in_the_signed_text_is_refused() -> None:
    """A text signed with a NUL in it is refused, whatever openssl's verdict."""
    part = b"Content-Type: text/plain\r\n\r\nseen\0dropped\r\nend"
    message = cms.message(part, cms.signed_data(cms.signer_info(NODE, part)))

    assert "NUL" in refusal(message).detail
