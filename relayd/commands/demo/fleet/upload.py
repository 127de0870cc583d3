"""An upload of a node, good or bad."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from relayd.errors import Reason


class Kind(StrEnum):
    """The kinds of uploads: good, sent again, and what can be wrong."""

    GOOD = "good"
    REPLAYED = "replayed"
    FORGED = "signed by another node"
    ALTERED = "altered after signing"
    TRUNCATED = "truncated"
    STRANGER = "from an unknown node"
    IMPOSTOR = "about another node"


#: The reason for which each kind of bad upload must be refused.
EXPECTED: Final = MappingProxyType(
    {
        Kind.FORGED: Reason.UNKNOWN_SIGNER,
        Kind.ALTERED: Reason.SIGNATURE,
        Kind.TRUNCATED: Reason.ARCHIVE,
        Kind.STRANGER: Reason.UNKNOWN_NODE,
        Kind.IMPOSTOR: Reason.NODE_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True)
class SimulatedUpload:
    """A file that a node uploads.

    Attributes:
        kind: whether it is good, and if not, what is wrong.
        name: base name of the file.
        body: its bytes.
        node_id: the node that it claims to come from.
        start: START of its reports, in whole seconds.
        rows: rows of `ruddersysevents` that it yields; 0 for a bad one or a replay.
    """

    kind: Kind
    name: str
    body: bytes
    node_id: str
    start: datetime
    rows: int
