"""Run logs signed by real agents, if Rudder's own test data are available."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from relayd.errors import Reason, Refused
from relayd.runlog.model import NodeCertificate, Verified
from relayd.runlog.signature.certificates import read_certificate
from relayd.runlog.signature.smime import verify
from tests.support.project import VECTORS

ALL = "nodescerts.pem"
NODE = "e745a140-40bc-4b86-b6dc-084488fc906b"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="Rudder's test data are not here")

SIGNED = sorted(VECTORS.glob("*/*.signed"))


def certificates(name: str) -> list[tuple[str | None, NodeCertificate]]:
    """Return node id and certificate of each one in a PEM file."""
    found = x509.load_pem_x509_certificates((VECTORS / "keys" / name).read_bytes())
    return [read_certificate(each.public_bytes(Encoding.DER))[:2] for each in found]


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.parent.name + "/" + path.name[:10])
def test_message_of_a_real_agent_gives_what_openssl_gives(path: Path, tmp_path: Path) -> None:
    """Each signed file is accepted with the node's certificate, byte for byte as by openssl."""
    pem = VECTORS / "keys" / f"{NODE}.cert"
    out = tmp_path / "out"
    options: list[str | Path] = [
        "-noverify",
        "-nointern",
        "-text",
        "-certfile",
        pem,
        "-in",
        path,
        "-out",
        out,
    ]
    subprocess.run(["openssl", "smime", "-verify", *options], check=True, capture_output=True)

    [(node_id, certificate)] = certificates(pem.name)

    assert node_id == NODE
    assert verify(path.read_bytes(), [certificate]) == Verified(out.read_bytes(), 0)


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.parent.name + "/" + path.name[:10])
def test_text_of_a_real_agent_is_its_plain_log(path: Path) -> None:
    """The text of a signed file is the plain log that was kept with it."""
    verdict = verify(path.read_bytes(), [certificate for _, certificate in certificates(ALL)])
    plain = path.with_suffix(".log").read_bytes()

    assert isinstance(verdict, Verified)
    assert verdict.content.splitlines() == plain.splitlines()


def test_certificate_of_another_key_does_not_verify() -> None:
    """With only the node's second certificate, of another key, the signer is unknown."""
    other = [certificate for _, certificate in certificates(f"{NODE}-other.cert")]

    verdict = verify((VECTORS / "smime" / "normal.signed").read_bytes(), other)

    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.UNKNOWN_SIGNER


def test_certificates_file_names_its_nodes() -> None:
    """Every certificate of the file is readable and names one of the two nodes."""
    assert {node_id for node_id, _ in certificates(ALL)} == {
        NODE,
        "37817c4d-fbf7-4850-a985-50021f4e8f41",
    }
