"""An upload of a node, good or bad, and its way into the spool."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
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
    """A file on its way into the spool.

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


def put(incoming: Path, upload: SimulatedUpload) -> None:
    """Write the file as Apache's mod_dav does: under a temporary name, then rename it."""
    scratch = incoming / f".davfs.tmp{secrets.token_hex(3)}"
    scratch.write_bytes(upload.body)
    scratch.rename(incoming / upload.name)
