"""Shared files as nodes send them, and a server that takes them."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from quart import Quart

from relayd.api.app import make_app
from relayd.api.shared_files import SharedFiles
from relayd.api.shared_folder import SharedFolder
from relayd.api.system import Services
from relayd.fleet.current_nodes import CurrentNodes
from relayd.shared.metadata import MAX_TTL
from relayd.shared.store import Store
from relayd.shared.upstream import UpstreamFiles
from relayd.shared.usage import Quota, Usage
from relayd.telemetry.metrics import Metrics
from tests.support.http import BASE, healthy, nothing
from tests.support.signing import SigningNode, make_key_and_cert

FOLDER = f"{BASE}/shared-folder"
FILES = f"{BASE}/shared-files"
SOURCE, TARGET = "source", "target"

_HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha512": SHA512()}


def node(node_id: str = SOURCE) -> SigningNode:
    """Return a node with a key."""
    return make_key_and_cert(node_id)


def spki(sender: SigningNode) -> bytes:
    """Return a node's public key as certificates have it."""
    return sender.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def lines(
    content: bytes, sender: SigningNode | None = None, algorithm: str = "sha512"
) -> dict[str, str]:
    """Metadata of a content, key by key, as an agent writes them."""
    key = (sender or node()).key
    assert isinstance(key, RSAPrivateKey)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return {
        "header": "rudder-signature-v1",
        "algorithm": algorithm,
        "digest": key.sign(content, PKCS1v15(), _HASHES[algorithm]).hex(),
        "hash_value": hashlib.new(algorithm, content).hexdigest(),
        "short_pubkey": base64.b64encode(public).decode(),
        "hostname": "source.test",
        "keydate": "2026-01-24 12:17:59.014153459 +0100",
        "keyid": "B85B4E8F",
    }


def joined(metadata: dict[str, str]) -> bytes:
    """Metadata as lines."""
    return "".join(f"{key}={value}\n" for key, value in metadata.items()).encode()


def upload(content: bytes, sender: SigningNode | None = None, algorithm: str = "sha512") -> bytes:
    """Return the body of an upload."""
    return joined(lines(content, sender, algorithm)) + b"\n" + content


def sha512(content: bytes) -> str:
    """Return the hash that is asked for."""
    return hashlib.sha512(content).hexdigest()


def write_nodes(path: Path, senders: Iterable[SigningNode], *others: str) -> None:
    """Return a nodes list in which the hashes of some nodes' keys are known."""
    below = {"hostname": "x.test", "policy-server": "root"}
    nodes: dict[str, dict[str, str]] = dict.fromkeys((*others, "root"), below)
    for sender in senders:
        digest = hashlib.sha256(spki(sender)).hexdigest()
        nodes[sender.node_id] = {**below, "key-hash": f"sha256:{digest}"}
    path.write_text(json.dumps(nodes))


@dataclass
class Shared:
    """The shared folder and the shared files of a server.

    Attributes:
        root: everything lies below it.
        trust: nodes `source` and `other` with keys, `keyless` and `target` without.
        metrics: of the server.
        max_body: bytes of an upload.
        usage: what sources have, and may have.
        max_ttl: seconds.
        upstream: where files for other nodes go.
    """

    root: Path
    trust: CurrentNodes
    metrics: Metrics
    max_body: int = 1024 * 1024
    usage: Usage = field(default_factory=lambda: Usage(Quota()))
    max_ttl: float = MAX_TTL
    upstream: UpstreamFiles | None = None

    @property
    def folder(self) -> Path:
        """The shared folder."""
        return self.root / "folder"

    @property
    def files(self) -> Path:
        """Where shared files are kept."""
        return self.root / "files"

    @property
    def place(self) -> Path:
        """Where those of `source` for `target` are."""
        return self.files / TARGET / "files" / SOURCE

    def pair(self, file: str) -> tuple[bytes, bytes] | None:
        """Return what is stored: content and metadata."""
        try:
            return (
                (self.place / file).read_bytes(),
                (self.place / f"{file}.metadata").read_bytes(),
            )
        except FileNotFoundError:
            return None

    def app(self) -> Quart:
        """Return the real app that serves both."""
        return make_app(
            Services(
                healthy,
                nothing,
                self.metrics,
                "1.2.3",
                shared_folder=SharedFolder(self.folder),
                shared_files=SharedFiles(
                    Store(self.files),
                    self.trust,
                    self.metrics,
                    self.usage,
                    self.max_body,
                    self.max_ttl,
                    self.upstream,
                ),
            )
        )

    def on_relay(self, upstream: UpstreamFiles) -> "Shared":
        """Return the same with a policy server above."""
        return replace(self, upstream=upstream)


async def make_shared(root: Path, *, max_body: int = 1024 * 1024) -> Shared:
    """Provide empty directories and loaded nodes."""
    write_nodes(root / "nodeslist.json", (node(), node("other")), TARGET, "keyless")
    metrics = Metrics()
    trust = CurrentNodes(root / "nodeslist.json", root / "certs.pem", "root", metrics)
    await trust.load()
    shared = Shared(root, trust, metrics, max_body)
    shared.folder.mkdir()
    return shared
