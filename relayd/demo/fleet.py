"""The simulated fleet: nodes with keys and certificates, and the run logs that they send."""

import gzip
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from relayd.demo.runlogs import make_runlog
from relayd.demo.signing import Signer
from relayd.demo.upload import EXPECTED, Kind, Upload

NODES_LIST: Final = "nodeslist.json"
CERTIFICATES: Final = "allnodescerts.pem"

_LIFETIME: Final = timedelta(days=3650)
_SECOND: Final = timedelta(seconds=1)
#: The agent uploads its run log a few seconds after the run began.
_DURATION: Final = timedelta(seconds=4)
#: Good uploads that are remembered, to be sent a second time.
_REMEMBERED: Final = 100


class Node:
    """One managed machine.

    Attributes:
        node_id: its id, derived from its key.
        hostname: its name.
        certificate: its self-signed X.509 certificate, with the id as UID of its subject.
    """

    def __init__(self, key: RSAPrivateKey, hostname: str, now: datetime) -> None:
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_hash = hashlib.sha256(public).hexdigest()
        self.node_id = str(UUID(self.key_hash[:32], version=4))
        self.hostname = hostname
        self.certificate = _certify(key, self.node_id, now)
        self._signer = Signer(key, self.certificate)
        self._last = now.replace(microsecond=0) - _SECOND

    def next_start(self, now: datetime) -> datetime:
        """START of its next run: now, but never the same second twice."""
        self._last = max(now.replace(microsecond=0), self._last + _SECOND)
        return self._last

    def sign(self, text: bytes) -> bytes:
        """The S/MIME message that its agent makes of a run log."""
        return self._signer.sign(text)


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


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which share of the uploads is bad.

    Attributes:
        bad: per cent of uploads with something wrong or sent twice.
    """

    bad: int

    def kinds(self) -> Iterator[Kind]:
        """Endless sequence of kinds: the bad ones are spread evenly and take turns."""
        turns = itertools.cycle([*EXPECTED, Kind.REPLAYED])
        owed = 0
        while True:
            owed += self.bad
            if owed >= 100:
                owed -= 100
                yield next(turns)
            else:
                yield Kind.GOOD


class Fleet:
    """All nodes, one more that nobody knows, and what they have sent.

    Attributes:
        nodes: the nodes of the nodes list.
        owed: how often something was to be sent a second time and still waited in the spool;
            made up for by the next uploads that can.
    """

    def __init__(self, keys: Sequence[RSAPrivateKey], spool: Path, pattern: Pattern) -> None:
        """Makes a node of each key; the last of them is the stranger.

        Args:
            keys: at least three.
            spool: directory that uploads are put into; read to learn what is done.
            pattern: which uploads are bad.
        """
        now = datetime.now(UTC)
        names = (f"node-{number:03}.demo.example" for number in itertools.count(1))
        *self.nodes, self._stranger = [Node(key, next(names), now) for key in keys]
        self._turns = itertools.cycle(range(len(self.nodes)))
        self._kinds = pattern.kinds()
        self._spool = spool
        self._sent: deque[Upload] = deque(maxlen=_REMEMBERED)
        self.owed = 0

    def write_lists(self, directory: Path) -> None:
        """Writes nodes list and certificates as Rudder's server generates them."""
        listed = {
            "root": {
                "hostname": "server.demo.example",
                "policy-server": "root",
                "key-hash": "sha256:",
            }
        }
        for node in self.nodes:
            listed[node.node_id] = {
                "hostname": node.hostname,
                "policy-server": "root",
                "key-hash": f"sha256:{node.key_hash}",
            }
        (directory / NODES_LIST).write_text(json.dumps(listed, indent=1))
        pems = (node.certificate.public_bytes(Encoding.PEM) for node in self.nodes)
        (directory / CERTIFICATES).write_bytes(b"".join(pems))

    def next_upload(self, now: datetime) -> Upload:
        """The next upload of the fleet. Takes some milliseconds of CPU: signing and packing."""
        if (earlier := self._replay()) is not None:
            return earlier
        kind = next(self._kinds)
        if kind is Kind.REPLAYED:
            self.owed = min(self.owed + 1, len(self._sent))
            if (earlier := self._replay()) is not None:
                return earlier
        turn = next(self._turns)
        node, other = self.nodes[turn], self.nodes[turn - 1]
        match kind:
            case Kind.STRANGER:
                upload = self._compose(kind, self._stranger, now)
            case Kind.FORGED:
                upload = self._compose(kind, node, now, signer=other)
            case Kind.IMPOSTOR:
                upload = self._compose(kind, node, now, subject=other)
            case Kind.ALTERED | Kind.TRUNCATED:
                upload = self._compose(kind, node, now)
            case _:
                upload = self._compose(Kind.GOOD, node, now)
                self._sent.append(upload)
        return upload

    def _replay(self) -> Upload | None:
        """An earlier good upload, once more, if one is owed and has left the spool."""
        if not self.owed or (self._spool / self._sent[0].name).exists():
            return None
        self.owed -= 1
        earlier = self._sent.popleft()
        return Upload(
            Kind.REPLAYED, earlier.name, earlier.body, earlier.node_id, earlier.start, rows=0
        )

    def _compose(
        self,
        kind: Kind,
        node: Node,
        now: datetime,
        *,
        signer: Node | None = None,
        subject: Node | None = None,
    ) -> Upload:
        start = node.next_start(now)
        text = make_runlog((subject or node).node_id, start)
        message = (signer or node).sign(text)
        if kind is Kind.ALTERED:
            message = message.replace(b"@@result_", b"@@Result_", 1)
        body = gzip.compress(message, compresslevel=6)
        if kind is Kind.TRUNCATED:
            body = body[: len(body) // 2]
        stamp = (start + _DURATION).isoformat()
        rows = count_rows(text) if kind is Kind.GOOD else 0
        return Upload(kind, f"{stamp}@{node.node_id}.log.gz", body, node.node_id, start, rows)


def count_rows(text: bytes) -> int:
    """Rows that a run log of ours is worth: one for each line with an entry of its own."""
    return text.count(b"R: @@")
