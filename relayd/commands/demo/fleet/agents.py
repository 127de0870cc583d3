"""The simulated fleet: nodes with keys and certificates, and the run logs that they send."""

import gzip
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload

#: The spools that the uploads of a node come through, its own policy server's first.
Way = Callable[[str], Sequence[Path]]

#: The agent uploads its run log a few seconds after the run began.
_DURATION: Final = timedelta(seconds=4)
#: Good uploads that are remembered, to be sent a second time.
_REMEMBERED: Final = 100


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


def make_nodes(keys: Sequence[RSAPrivateKey], now: datetime) -> list[SimulatedNode]:
    """Make a node of each key, with a certificate that is valid from now on."""
    names = (f"node-{number:03}.demo.example" for number in itertools.count(1))
    return [SimulatedNode(key, next(names), now) for key in keys]


class Fleet:
    """All nodes, one more that nobody knows, and what they have sent.

    Attributes:
        nodes: the nodes of the nodes list.
        owed: how often something was to be sent a second time and still waited in the spool;
            made up for by the next uploads that can.
    """

    def __init__(self, nodes: Sequence[SimulatedNode], way: Way, pattern: Pattern) -> None:
        """Takes over the nodes; the last of them is the stranger.

        Args:
            nodes: at least three.
            way: gives the `incoming` directories that a node's uploads come through; they are
                looked into to learn what is done.
            pattern: which uploads are bad.
        """
        *self.nodes, self._stranger = nodes
        self._turns = itertools.cycle(range(len(self.nodes)))
        self._kinds = pattern.kinds()
        self._way = way
        self._sent: deque[SimulatedUpload] = deque(maxlen=_REMEMBERED)
        self.owed = 0

    def next_upload(self, now: datetime) -> SimulatedUpload:
        """Return the next upload of the fleet. Takes some milliseconds of CPU: signing and packing."""
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

    def _replay(self) -> SimulatedUpload | None:
        """Return an earlier good upload, once more, if one is owed and has left the spool."""
        if not self.owed or self._is_on_its_way(self._sent[0]):
            return None
        self.owed -= 1
        earlier = self._sent.popleft()
        return SimulatedUpload(
            Kind.REPLAYED, earlier.name, earlier.body, earlier.node_id, earlier.start, rows=0
        )

    def _is_on_its_way(self, upload: SimulatedUpload) -> bool:
        # From below: a relay removes a file only when it is in the spool above.
        return any((spool / upload.name).exists() for spool in self._way(upload.node_id))

    def _compose(
        self,
        kind: Kind,
        node: SimulatedNode,
        now: datetime,
        *,
        signer: SimulatedNode | None = None,
        subject: SimulatedNode | None = None,
    ) -> SimulatedUpload:
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
        return SimulatedUpload(
            kind, f"{stamp}@{node.node_id}.log.gz", body, node.node_id, start, rows
        )


def count_rows(text: bytes) -> int:
    """Return the rows that a run log of the demo is worth: one for each line with an entry of its own."""
    return text.count(b"R: @@")
