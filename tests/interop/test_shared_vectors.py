"""A shared file of a real agent, if Rudder's own test data are available."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relayd.fleet.current_nodes import CurrentNodes
from relayd.shared.metadata import parse_metadata
from relayd.telemetry.metrics import Metrics
from tests.support.http import open_server
from tests.support.project import VECTORS
from tests.support.shared import FILES, Shared

NODE = "e745a140-40bc-4b86-b6dc-084488fc906b"
OTHER = "37817c4d-fbf7-4850-a985-50021f4e8f41"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="Rudder's test data are not here")


def vector(name: str) -> bytes:
    """One of the files."""
    return (VECTORS / "shared_files" / name).read_bytes()


def test_metadata_of_a_real_agent() -> None:
    """They are signed with the key in them, possibly of any node; relayd adds only the expiry."""
    sent, kept = parse_metadata(vector("file.sign")), parse_metadata(vector("file.metadata"))
    content = vector("file")
    assert sent.is_signed(hashlib.sha512(content).digest())
    assert sent.hash_value == hashlib.sha512(content).hexdigest()
    assert kept.expires is not None
    assert sent.expiring(kept.expires).text() == vector("file.metadata")


@pytest.mark.fault("F15")
async def test_an_upload_with_an_unknown_line(tmp_path: Path) -> None:
    """An upload as a newer agent may make it is stored."""
    place = VECTORS / "field" / "shared-file-unknown-metadata-key"
    metrics = Metrics()
    trust = CurrentNodes(place / "nodeslist.json", tmp_path / "none", "root", metrics)
    await trust.load()
    body = (place / "body").read_bytes()
    async with open_server(Shared(tmp_path, trust, metrics).app()) as server:
        assert (await server.ask("PUT", f"{FILES}/n2/n1/f?ttl=1d", body)).status == 200
    content = body.partition(b"\n\n")[2]
    assert (tmp_path / "files" / "n2" / "files" / "n1" / "f").read_bytes() == content


@pytest.mark.history(37, 43)
@pytest.mark.parametrize(("source", "status"), [(NODE, 200), (OTHER, 404)])
async def test_upload_of_a_real_agent(tmp_path: Path, source: str, status: int) -> None:
    """A node's upload is stored as by `rudder-relayd`, if the key is that node's."""
    certificate = x509.load_pem_x509_certificate((VECTORS / "keys" / f"{source}.cert").read_bytes())
    theirs = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    nodes = {
        source: {
            "hostname": "node.test",
            "policy-server": "root",
            "key-hash": f"sha256:{hashlib.sha256(theirs).hexdigest()}",
        }
    }
    (tmp_path / "nodes.json").write_text(json.dumps(nodes))
    metrics = Metrics()
    trust = CurrentNodes(tmp_path / "nodes.json", tmp_path / "none", "root", metrics)
    await trust.load()
    shared = Shared(tmp_path, trust, metrics)
    body = vector("file.sign") + b"\n" + vector("file")
    path = f"{FILES}/{source}/{source}/file"
    async with open_server(shared.app()) as server:
        answer = await server.ask("PUT", f"{path}?ttl=1d", body)
        digest = hashlib.sha512(vector("file")).hexdigest()
        found = await server.ask("HEAD", f"{path}?hash={digest}")
    assert (answer.status, found.status) == (status, status)
    if status == 200:
        place = tmp_path / "files" / source / "files" / source
        assert (place / "file").read_bytes() == vector("file")
        stored = (place / "file.metadata").read_bytes()
        digits = rb"expires=\d+"
        assert re.sub(digits, b"", stored) == re.sub(digits, b"", vector("file.metadata"))
