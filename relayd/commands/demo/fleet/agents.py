"""The simulated fleet: nodes with keys and certificates, and the run logs that they upload."""

import gzip
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.fleet.upload import EXPECTED, Kind, SimulatedUpload

#: Returns whether an upload is still on its way: with its node, or in a spool.
IsWaiting = Callable[[SimulatedUpload], bool]

#: Number of good uploads kept for sending again.
_REPLAYABLE: Final = 100


@dataclass(frozen=True, slots=True)
class Pattern:
    """The share of bad uploads.

    Attributes:
        bad: percentage of uploads that are bad or sent twice.
    """

    bad: int

    def kinds(self) -> Iterator[Kind]:
        """Yield kinds without end; bad ones are evenly spread and alternate."""
        bad_kinds = itertools.cycle([*EXPECTED, Kind.REPLAYED])
        owed = 0
        while True:
            owed += self.bad
            if owed >= 100:
                owed -= 100
                yield next(bad_kinds)
            else:
                yield Kind.GOOD


def make_nodes(keys: Sequence[RSAPrivateKey], now: datetime) -> list[SimulatedNode]:
    """Make a node from each key, with a certificate that is valid from now on."""
    names = (f"node-{number:03}.demo.example" for number in itertools.count(1))
    return [SimulatedNode(key, next(names), now) for key in keys]


class Fleet:
    """All nodes, plus one that is not in the nodes list, and their recent uploads.

    Attributes:
        nodes: the nodes of the nodes list.
        owed: replays that are due, but whose originals were still on their way; later uploads make
            up for them.
    """

    def __init__(
        self, nodes: Sequence[SimulatedNode], is_waiting: IsWaiting, pattern: Pattern
    ) -> None:
        """Make a fleet of the nodes; the last one is the unknown node.

        Args:
            nodes: at least three.
            is_waiting: returns whether an upload has not been processed yet; called in a thread.
            pattern: which uploads are bad.
        """
        *self.nodes, self._stranger = nodes
        self._positions = itertools.cycle(range(len(self.nodes)))
        self._kinds = pattern.kinds()
        self._is_waiting = is_waiting
        self._sent: deque[SimulatedUpload] = deque(maxlen=_REPLAYABLE)
        self.owed = 0

    def next_upload(self, now: datetime) -> SimulatedUpload:
        """Return the next upload of the fleet.

        Signing and compressing it take some milliseconds of CPU.
        """
        if (earlier := self._replay()) is not None:
            return earlier
        kind = next(self._kinds)
        if kind is Kind.REPLAYED:
            self.owed = min(self.owed + 1, len(self._sent))
            if (earlier := self._replay()) is not None:
                return earlier
        position = next(self._positions)
        node, other = self.nodes[position], self.nodes[position - 1]
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
        """Return an earlier good upload again, if one is due and was processed."""
        if not self.owed or self._is_waiting(self._sent[0]):
            return None
        self.owed -= 1
        earlier = self._sent.popleft()
        return SimulatedUpload(
            Kind.REPLAYED, earlier.name, earlier.body, earlier.node_id, earlier.start, rows=0
        )

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
        stamp = start.isoformat()
        rows = count_rows(text) if kind is Kind.GOOD else 0
        return SimulatedUpload(
            kind, f"{stamp}@{node.node_id}.log.gz", body, node.node_id, start, rows
        )


def count_rows(text: bytes) -> int:
    """Return the number of rows that a run log of the demo yields: one for each report."""
    return text.count(b"R: @@")
