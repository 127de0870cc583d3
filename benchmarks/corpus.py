"""Real nodes, keys and signed run logs for all benchmarks, generated once per run.

An RSA-4096 key takes about a second, so only a few are generated, cached in `build/` for the next
run and shared by the nodes; each node has its own certificate. relayd caches parsed keys by public
key, so sharing saves about 0.03 ms per run log, compared with a fleet of distinct keys that is
larger than the cache.
"""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from benchmarks.measure import say
from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.fleet.signing import RunLogSigner
from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import read_certificate

REPORTS: Final = 72
KEY_BITS: Final = 4096
KEYS: Final = 8
NODES: Final = 200

_KEY_CACHE: Final = Path(__file__).parent.parent / "build" / "benchmark-keys"
_FIRST_RUN: Final = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SampleNode:
    """A simulated node.

    Attributes:
        id: its node id.
        certificate: self-signed certificate; the UID of the subject is the node id.
        known: the parts of the certificate that relayd keeps.
        key: its private key.
        signer: signs its run logs.
    """

    id: str
    certificate: x509.Certificate
    known: NodeCertificate
    key: rsa.RSAPrivateKey
    signer: RunLogSigner

    @property
    def pem(self) -> bytes:
        """The certificate as in the certificates file."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Sample:
    """A run log: its file name, its node, the signed text, and the signed message."""

    name: str
    node: SampleNode
    text: bytes
    message: bytes


def make_nodes(count: int = NODES) -> list[SampleNode]:
    """Make nodes with distinct certificates that share `KEYS` keys."""
    keys = _keys()
    return [
        _node(f"{number:08x}-5eed-4000-8000-be7c6a11ed00", keys[number % KEYS])
        for number in range(count)
    ]


def make_samples(nodes: list[SampleNode], count: int) -> list[Sample]:
    """Make run logs of distinct runs for all nodes in turn, a node's runs five minutes apart."""
    say(f"signing {count} run logs of {REPORTS} reports")
    samples = []
    for number in range(count):
        node = nodes[number % len(nodes)]
        start = _FIRST_RUN + timedelta(minutes=5 * (number // len(nodes)), seconds=number % 300)
        text = make_runlog(node.id, start, reports=REPORTS)
        name = f"{start.isoformat()}@{node.id}.log"
        samples.append(Sample(name, node, text, node.signer.sign(text)))
    return samples


def write_nodes(nodes: list[SampleNode], directory: Path) -> None:
    """Write `nodeslist.json` and `allnodescerts.pem` as a policy server does."""
    everyone = {"root": {"hostname": "server.example.org", "policy-server": "root"}}
    for number, node in enumerate(nodes):
        everyone[node.id] = {
            "hostname": f"node{number}.example.org",
            "policy-server": "root",
            "key-hash": f"sha256:{hashlib.sha256(node.known.spki).hexdigest()}",
        }
    (directory / "nodeslist.json").write_text(json.dumps(everyone))
    (directory / "allnodescerts.pem").write_bytes(b"".join(node.pem for node in nodes))


def _node(node_id: str, key: rsa.RSAPrivateKey) -> SampleNode:
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, node_id)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST_RUN - timedelta(days=30))
        .not_valid_after(_FIRST_RUN + timedelta(days=3650))
        .sign(key, SHA256())
    )
    _, known, _ = read_certificate(certificate.public_bytes(Encoding.DER))
    return SampleNode(node_id, certificate, known, key, RunLogSigner(key, certificate))


def _keys() -> list[rsa.RSAPrivateKey]:
    _KEY_CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths = [_KEY_CACHE / f"{number}.pem" for number in range(KEYS)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        say(f"generating {len(missing)} RSA-{KEY_BITS} keys, cached in {_KEY_CACHE}")
        with ProcessPoolExecutor() as pool:
            list(pool.map(_generate_key, missing))
    keys = [load_pem_private_key(path.read_bytes(), None) for path in paths]
    return [key for key in keys if isinstance(key, rsa.RSAPrivateKey)]


def _generate_key(path: Path) -> None:
    key = rsa.generate_private_key(65537, KEY_BITS)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = path.with_suffix(f".{os.getpid()}")
    part.touch(mode=0o600)
    part.write_bytes(text)
    part.replace(path)
