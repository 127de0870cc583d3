"""The nodes of a running relayd, or of the spool of a stopped one, as an operator asks for them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from relayd.config.main_conf import Settings
from relayd.fleet.nodes import Nodes
from relayd.overview.failed import FailedIndex
from relayd.overview.nodes import NodesChoice, NodesPage, Sources, all_nodes, find_node, list_nodes
from relayd.overview.one_node import NAMED, FileFacts, NodeDetail, node_detail
from relayd.overview.server import role_of, spools_in_use
from relayd.spool.failed.reasons import read_reason, reason_path
from relayd.spool.operations.entries import Entry, read_entries
from relayd.telemetry.nodes.records import NodeRecord


class Known(msgspec.Struct, frozen=True):
    """The nodes and their records, at one moment.

    Attributes:
        nodes: the nodes list.
        records: of the nodes that were heard of, by node id.
        last_hour: run logs of all nodes in the last hour.
        since: Unix time since which the records go back.
    """

    nodes: Nodes
    records: Mapping[str, NodeRecord]
    last_hour: int
    since: float


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """Refused files with one reason.

    Attributes:
        files: the latest of them, the latest first.
        total: how many there are.
    """

    files: tuple[FileFacts, ...]
    total: int


class FilePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a file is.

    Attributes:
        name: base name.
        state: where it is; "unknown" if it is nowhere here: done, or it has never arrived.
        at: the time of its run, or when it was refused, Unix time; None if unknown.
        node_id: of its name; "" without one.
        reason: why it was refused.
        detail: the fault, one line.
    """

    name: str
    state: Literal["waiting", "held", "refused", "unknown"]
    at: float | None = None
    node_id: str = ""
    reason: str = ""
    detail: str = ""


class FleetView:
    """Answers what an operator asks about nodes; blocks, so it is called in a thread.

    Args:
        settings: of this relayd.
        gently: whether to let the event loop of this process run meanwhile.
    """

    def __init__(self, settings: Settings, *, gently: bool = False) -> None:
        self._gently = gently
        self._settings = settings
        self._spools = spools_in_use(settings)
        self._failed = FailedIndex(self._spools.values())

    def some(self, known: Known, choice: NodesChoice) -> NodesPage:
        """Return the nodes that are meant.

        Raises:
            RelaydError: no relay has the name that was given.
        """
        return list_nodes(self._sources(known, self._entries()), choice)

    def one(
        self, known: Known, part: str, database: Callable[[str], float | None] | None = None
    ) -> NodeDetail:
        """Return all about the node whose id or name, or a part of either, is given.

        Args:
            known: the nodes and their records.
            part: of an id or name.
            database: returns the start of the last run of a node in the database, Unix time.

        Raises:
            RelaydError: no node fits, or several do.
        """
        node_id = find_node(part, all_nodes(known.nodes)).id
        entries = self._entries()
        mine = [entry for entry in entries if entry.node_id == node_id and not entry.layer]
        return node_detail(
            self._sources(known, entries),
            node_id,
            role_of(self._settings, known.nodes.my_id),
            tuple(FileFacts(name=entry.name, at=entry.dated) for entry in mine[:NAMED]),
            tuple(self._refused(node_id))[-NAMED:],
            None if database is None else database(node_id),
        )

    def refused(self, reason: str, limit: int) -> Refusals:
        """Return the refused files with a reason, the latest first."""
        self._failed.look()
        paths = self._failed.files_with(reason)
        found = sorted(map(_refusal, paths), key=lambda facts: -facts.at)
        return Refusals(files=tuple(found[:limit]), total=len(found))

    def where(self, name: str) -> FilePlace:
        """Return where a file is, by its base name."""
        entries = (entry for entry in self._entries() if entry.shown == name)
        self._failed.look()
        refused = next((path for path in self._failed.paths if Path(path).name == name), None)
        for entry in entries:
            state: Literal["waiting", "held"] = "held" if entry.layer else "waiting"
            return FilePlace(name=name, state=state, at=entry.dated, node_id=entry.node_id)
        if refused is None:
            return FilePlace(name=name, state="unknown")
        facts = _refusal(Path(refused))
        return FilePlace(
            name=name,
            state="refused",
            at=facts.at,
            node_id=self._failed.node_of(refused),
            reason=facts.reason,
            detail=facts.detail,
        )

    def _entries(self) -> list[Entry]:
        return read_entries(self._spools.values(), gently=self._gently)

    def _sources(self, known: Known, entries: Iterable[Entry]) -> Sources:
        self._failed.look()
        waiting = Counter(entry.node_id for entry in entries if not entry.layer)
        return Sources(
            nodes=known.nodes,
            record=known.records.get,
            last_hour=known.last_hour,
            since=known.since,
            waiting=waiting,
            failed=self._failed.nodes,
            now=time.time(),
        )

    def _refused(self, node_id: str) -> list[FileFacts]:
        found = [_refusal(path) for path in self._failed.files_of(node_id)]
        return sorted(found, key=lambda facts: facts.at)


def _refusal(path: Path) -> FileFacts:
    with suppress(OSError, ValueError):
        record = read_reason(reason_path(path))
        if record is not None:
            at = datetime.fromisoformat(record.time).timestamp()
            reason = record.reason.value
            return FileFacts(name=path.name, at=at, reason=reason, detail=record.detail)
    return FileFacts(name=path.name, at=0.0, reason="unexplained")
