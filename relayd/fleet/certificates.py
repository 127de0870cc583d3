"""A memory-efficient store for the certificates of a fleet."""

from array import array
from typing import Final

import msgspec

from relayd.runlog.model import NodeCertificate
from relayd.runlog.signature.certificates import Validity

_LENGTH_SIZE: Final = 4

#: Bytes of a page; its last record may make it longer.
_PAGE_SIZE: Final = 64 * 1024

_pack = msgspec.msgpack.Encoder().encode
#: Certificates of one node, and the places of their dates.
_unpack = msgspec.msgpack.Decoder(tuple[tuple[NodeCertificate, ...], tuple[int, ...]]).decode


class CertificateStore:
    """Certificates by node id, packed one after the other into pages of memory.

    As objects, RSA-4096 certificates take 0.8 kB each, scattered over a heap that hardly shrinks
    after a reload, and the garbage collector stops every thread to traverse them.

    Attributes:
        peers: complete certificates, DER, of the few nodes that relayd connects to, by node id.
    """

    __slots__ = ("_begins", "_end", "_ends", "_pages", "_places", "peers")

    def __init__(self) -> None:
        self._pages: list[bytearray] = []
        self._end = 0
        self._places: dict[str, int] = {}
        self._begins = array("q")
        self._ends = array("q")
        self.peers: dict[str, tuple[bytes, ...]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, node_id: str, certificate: NodeCertificate, validity: Validity) -> None:
        """Add a certificate after the others of its node, unless the node already has it.

        Args:
            node_id: the node that it belongs to.
            certificate: verifies the signatures of the node.
            validity: only counted, see `expired` and `not_yet_valid`.
        """
        others, dates = self._record(node_id)
        if certificate in others:
            return
        # An earlier record of the node stays behind unused: few nodes have two certificates.
        record = (*others, certificate), (*dates, len(self._ends))
        self._places[node_id] = self._append(_pack(record))
        self._begins.append(validity.begin)
        self._ends.append(validity.end)

    def add_peer(self, node_id: str, der: bytes) -> None:
        """Keep the complete certificate of a node as well, unless it is already kept."""
        others = self.peers.get(node_id, ())
        if der not in others:
            self.peers[node_id] = (*others, der)

    def get(self, node_id: str) -> tuple[NodeCertificate, ...]:
        """Return the certificates of a node in the order they were added; none if unknown."""
        return self._record(node_id)[0]

    def validity(self, node_id: str) -> tuple[Validity, ...]:
        """Return the validity of each certificate of a node, in the same order."""
        dates = self._record(node_id)[1]
        return tuple(Validity(self._begins[place], self._ends[place]) for place in dates)

    def _record(self, node_id: str) -> tuple[tuple[NodeCertificate, ...], tuple[int, ...]]:
        place = self._places.get(node_id)
        if place is None:
            return (), ()
        number, start = divmod(place, _PAGE_SIZE)
        page = memoryview(self._pages[number])
        end = start + _LENGTH_SIZE
        length = int.from_bytes(page[start:end])
        return _unpack(page[end : end + length])

    def expired(self, now: float) -> int:
        """Count the certificates whose validity ended before `now`, Unix time in seconds."""
        return sum(end < now for end in self._ends)

    def not_yet_valid(self, now: float) -> int:
        """Count the certificates whose validity begins after `now`, Unix time in seconds."""
        return sum(begin > now for begin in self._begins)

    def _append(self, packed: bytes) -> int:
        """Write one record, preceded by its length, and return its position."""
        record = len(packed).to_bytes(_LENGTH_SIZE) + packed
        if not self._pages or self._end + len(record) > len(self._pages[-1]):
            self._pages.append(bytearray(_PAGE_SIZE))
            self._end = 0
        start = self._end
        self._end += len(record)
        self._pages[-1][start : self._end] = record
        return (len(self._pages) - 1) * _PAGE_SIZE + start
