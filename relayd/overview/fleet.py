"""The nodes of a running relayd, or of the spool of a stopped one, as an operator asks for them."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from heapq import nsmallest
from pathlib import Path
from typing import Final, Literal

import msgspec

from relayd.config.main_conf import Settings
from relayd.fleet.finding import find_node
from relayd.fleet.nodes import Nodes
from relayd.overview.failed import FailedIndex
from relayd.overview.held import held_of
from relayd.overview.nodes import NodesChoice, NodesPage, Sources, list_nodes
from relayd.overview.one_node import NAMED, Asked, FileFacts, NodeDetail, node_detail
from relayd.overview.server import role_of, spools_in_use
from relayd.overview.summary import Relays, Summary, count_relays, summarize
from relayd.runlog.filename import run_of
from relayd.spool.failed.reasons import read_reason, reason_path
from relayd.spool.failed.refusals import UNEXPLAINED
from relayd.spool.layout import Spool
from relayd.spool.operations.entries import count_waiting, find_entry, waiting_of
from relayd.system.printable import names_of, shown
from relayd.telemetry.nodes.records import NodeRecord, NodeRecords

#: What others say while nobody is asked.
_NOTHING: Final = Asked()


class Known(msgspec.Struct, frozen=True):
    """The nodes and their records, at one moment.

    Attributes:
        nodes: the nodes list.
        record: returns the record of a node; called in the thread that answers.
        last_hour: run logs of all nodes in the last hour.
        since: Unix time since which the records go back.
    """

    nodes: Nodes
    record: Callable[[str], NodeRecord | None]
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

    def some(
        self,
        known: Known,
        choice: NodesChoice,
        part: str = "",
        waiting: Mapping[str, int] | None = None,
    ) -> NodesPage:
        """Return the nodes that are meant.

        Args:
            known: all nodes and their records.
            choice: which nodes are meant.
            part: of their names or ids, in any case; "" for any.
            waiting: how many files of each node wait; None to count them now.

        Raises:
            RelaydError: no relay has the name that was given, or a spool cannot be read.
        """
        counted = self.waiting() if waiting is None else waiting
        return list_nodes(self._sources(known, counted), choice, part)

    def waiting(self) -> Mapping[str, int]:
        """Return how many files of each node wait; takes a second for some hundred thousand.

        Raises:
            RelaydError: a spool cannot be read.
        """
        return count_waiting(self._spools.values(), gently=self._gently)

    def summary(self, known: Known, silent_s: float) -> Summary:
        """Return what there is to say of all nodes, but for the files that wait.

        Args:
            known: all nodes and their records.
            silent_s: seconds without a run log that are unusual.
        """
        return summarize(self._sources(known, {}), silent_s)

    def relays(self, known: Known, silent_s: float) -> Relays:
        """Return how the nodes of each relay are.

        Args:
            known: all nodes and their records.
            silent_s: seconds without a run log that are unusual.

        Raises:
            RelaydError: a spool cannot be read.
        """
        return count_relays(self._sources(known, self.waiting()), silent_s)

    def one(
        self, known: Known, node_id: str, asked: Asked = _NOTHING, *, named: int = NAMED
    ) -> NodeDetail:
        """Return all about a node.

        Args:
            known: the nodes and their records; that of this node is enough.
            node_id: the node, see `find`.
            asked: what others say about it.
            named: files of each kind that are named at most.

        Raises:
            RelaydError: a spool cannot be read.
        """
        number, first = self._waiting(node_id, named)
        return node_detail(
            self._sources(known, {node_id: number}),
            node_id,
            role_of(self._settings, known.nodes.my_id),
            first,
            tuple(self._refused(node_id)[-named:]) if named else (),
            held_of(self._spools.values(), node_id),
            asked,
        )

    def _waiting(self, node_id: str, named: int) -> tuple[int, tuple[FileFacts, ...]]:
        """Return how many files of a node wait, and the oldest of them."""
        number = 0
        dated: list[tuple[float, str]] = []
        for spool, path, name in waiting_of(self._spools.values(), node_id, gently=self._gently):
            number += 1
            dated.append((_date_of(spool, path, name), name))
            if len(dated) > 2 * named:
                dated = nsmallest(named, dated)
        oldest = nsmallest(named, dated)
        return number, tuple(FileFacts(name=shown(name), at=at) for at, name in oldest)

    def refused(self, reason: str, limit: int) -> Refusals:
        """Return the refused files with a reason, the latest first."""
        self._failed.look()
        paths, total = self._failed.files_with(reason, limit)
        found = sorted(map(_refusal, paths), key=lambda facts: -facts.at)
        return Refusals(files=tuple(found), total=total)

    def where(self, name: str) -> FilePlace:
        """Return where a file is.

        Args:
            name: base name, as it is shown: bytes that are not UTF-8 may be escapes.

        Raises:
            RelaydError: a spool cannot be read.
        """
        self._failed.look()
        for real in names_of(name):
            entry = find_entry(self._spools.values(), real)
            if entry is not None:
                state: Literal["waiting", "held"] = "held" if entry.layer else "waiting"
                return FilePlace(name=name, state=state, at=entry.dated, node_id=entry.node_id)
            refused = self._failed.find(real)
            if refused is not None:
                return _refused_place(name, *refused)
        return FilePlace(name=name, state="unknown")

    def _sources(self, known: Known, waiting: Mapping[str, int]) -> Sources:
        self._failed.look()
        return Sources(
            nodes=known.nodes,
            record=known.record,
            last_hour=known.last_hour,
            since=known.since,
            waiting=waiting,
            failed=self._failed.nodes,
            now=time.time(),
        )

    def _refused(self, node_id: str) -> list[FileFacts]:
        found = [_refusal(path) for path in self._failed.files_of(node_id)]
        return sorted(found, key=lambda facts: facts.at)


def find(nodes: Nodes, part: str) -> str:
    """Return the id of the node whose id or host name, or a part of either, is given.

    Raises:
        NoSuchNodeError: no node fits, or several do.
    """
    return find_node(part, nodes.hostnames())


def known_nodes(nodes: Nodes, records: NodeRecords) -> Known:
    """Return all nodes and their records, for a thread that has the records for itself."""
    return Known(nodes, records.get, records.last_hour(), records.since)


def known_node(nodes: Nodes, records: NodeRecords, node_id: str) -> Known:
    """Return the nodes and the record of one of them, for any thread."""
    return Known(nodes, {node_id: records.get(node_id)}.get, records.last_hour(), records.since)


def _date_of(spool: Spool, path: Path, name: str) -> float:
    """Return the start of a run, or else when its file arrived; 0 if it is gone."""
    run = run_of(name) if spool.ordered else None
    if run is not None:
        return run[1]
    try:
        return (path / name).lstat().st_mtime
    except OSError:
        return 0.0


def _refused_place(name: str, path: Path, node_id: str) -> FilePlace:
    facts = _refusal(path)
    return FilePlace(
        name=name,
        state="refused",
        at=facts.at,
        node_id=node_id,
        reason=facts.reason,
        detail=facts.detail,
    )


def _refusal(path: Path) -> FileFacts:
    name = shown(path.name)
    with suppress(OSError, ValueError):
        record = read_reason(reason_path(path))
        if record is not None:
            at = datetime.fromisoformat(record.time).timestamp()
            reason = record.reason.value
            return FileFacts(name=name, at=at, reason=reason, detail=record.detail)
    return FileFacts(name=name, at=0.0, reason=UNEXPLAINED)
