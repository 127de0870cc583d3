"""The operations on all spools of an installation, in the daemon or without one."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

from relayd.spool.layout import Spool, is_directory
from relayd.spool.operations.act import (
    MOVING,
    Claims,
    Done,
    NoClaims,
    drop,
    hold,
    release,
    would,
)
from relayd.spool.operations.choose import Choice, choose, chosen
from relayd.spool.operations.entries import Entry, each_entry, read_entries
from relayd.spool.operations.rules import Rule, change_rules, read_rules
from relayd.spool.operations.shape import ROWS, Names, Shape, measure
from relayd.spool.operations.views import (
    Attempt,
    FileView,
    NodeOnHold,
    Report,
    Waiting,
    detailed,
    report,
    view,
)
from relayd.system.clock import in_utc
from relayd.system.printable import shown

#: Files that are shown in detail at most: each takes a system call.
DETAILED: Final = 1000


#: Returns the ids of the nodes that an operator means, of these ids and host names by id; raises
#: `StartError`.
FindNodes = Callable[[Sequence[str], Iterable[str], Mapping[str, str]], frozenset[str]]


class Running(Claims, Protocol):
    """What a running relayd knows, and has to know; its methods are called in a thread."""

    def attempts(self, directory: Path) -> Mapping[str, Attempt]:
        """Return those files of a watched directory that are in flight or were tried before."""

    def hurry(self, directory: Path, names: Collection[str]) -> Collection[str]:
        """Try those of the files now that wait for another attempt, and return them."""

    def note_rules(self, spool: Spool, nodes: Collection[str]) -> None:
        """Set files of these nodes aside as they arrive, and no others."""


class Stopped(NoClaims):
    """No relayd runs, and this process has the locks of the spools."""

    def attempts(self, directory: Path) -> Mapping[str, Attempt]:
        """Return nothing: no file is in flight."""
        return {}

    def hurry(self, directory: Path, names: Collection[str]) -> Collection[str]:
        """Return nothing: no file waits for another attempt."""
        return ()

    def note_rules(self, spool: Spool, nodes: Collection[str]) -> None:
        """Do nothing: the file says it all."""


class Queue:
    """The files of all spools. Every method blocks.

    Args:
        spools: of the installation; directories that are missing count as empty.
        hostnames: of the nodes list, by id.
        relay: returns the id of the relay through which a node's files come, "" if none.
        find: finds nodes, see `relayd.fleet.finding.find_nodes`.
        running: the relayd that works on the files; None if there is none.
    """

    def __init__(
        self,
        spools: Sequence[Spool],
        hostnames: Mapping[str, str],
        relay: Callable[[str], str],
        find: FindNodes,
        running: Running | None = None,
    ) -> None:
        self._spools = [spool for spool in spools if any(map(is_directory, spool.watched))]
        self._hostnames = hostnames
        self._names = Names(lambda node_id: hostnames.get(node_id, ""), relay)
        self._find = find
        self._running = running or Stopped()
        self._is_running = running is not None

    def shape(self, choice: Choice, rows: int = ROWS) -> Shape:
        """Count files by node and age; raise StartError."""
        return measure(self._each(choice), self._names, time.time(), rows)

    def files(self, choice: Choice, limit: int = 0, *, details: bool = False) -> Waiting:
        """Return the chosen files, the oldest first.

        Args:
            choice: which.
            limit: files that are returned one by one at most; 0: all of them.
            details: whether to look at each of these, `DETAILED` at most.

        Raises:
            StartError: a directory cannot be read, or a node is not found.
        """
        now, counts = time.time(), Counter[bool]()
        found = _counted(self._each(choice), counts)
        most = min(limit or DETAILED, DETAILED) if details else limit
        # Of some hundred thousand files only those that are shown are kept.
        entries = nsmallest(most, found, key=_rank) if most else sorted(found, key=_rank)
        return Waiting(
            waiting=counts[False],
            held=counts[True],
            oldest_seconds=max(0.0, now - entries[0].dated) if entries else None,
            nodes_on_hold=self._nodes_on_hold(),
            files=[*self._views(entries, now, details=details)],
            running=self._is_running,
        )

    def hold(self, choice: Choice, by: str = "", *, trial: bool = False) -> Report:
        """Set waiting files aside; those that are still to arrive too, if whole nodes are meant.

        Args:
            choice: which.
            by: name of the user who asks for it.
            trial: whether only to count.

        Raises:
            StartError: a directory cannot be read, a node is not found, the rules cannot be kept.
        """
        nodes = self._node_ids(choice) if choice.is_by_node else frozenset()
        if nodes and not trial:
            for spool in self._spools:
                with MOVING:
                    rules = change_rules(spool, add=nodes, by=by)
                    self._running.note_rules(spool, rules)
        entries = [entry for entry in self._choose(choice) if not entry.layer]
        running = self._running
        results = would(entries, running, "held") if trial else hold(entries, running)
        return report("hold", results, map(self._call, nodes), trial=trial)

    def release(self, choice: Choice, *, trial: bool = False) -> Report:
        """Bring files back, and no longer set those of whole nodes aside.

        Files of a node stay in order: relayd takes none of them before the last one is back.

        Raises:
            StartError: a directory cannot be read, a node is not found, the rules cannot be kept.
        """
        with MOVING:
            rules = self._rules()
            nodes = self._released_nodes(choice, rules)
            held = [entry for entry in self._choose(choice) if entry.layer]
            ruled = rules - nodes
            results = [Done(entry, "busy", _RULED) for entry in held if entry.node_id in ruled]
            free = [entry for entry in held if entry.node_id not in ruled]
            if trial:
                results += [Done(entry, "released") for entry in free]
            else:
                results += release(free)
                self._end_rules(nodes)
        return report("release", results, map(self._call, nodes), trial=trial)

    def drop(self, choice: Choice, *, trial: bool = False) -> Report:
        """Remove files for good; raise StartError."""
        entries = self._choose(choice)
        running = self._running
        results = would(entries, running, "dropped") if trial else drop(entries, running)
        return report("drop", results, (), trial=trial)

    def retry(self, choice: Choice) -> Report:
        """Try the chosen files now that wait for another attempt; raise StartError."""
        results: list[Done] = []
        for directory, some in groupby(self._choose(choice), key=lambda entry: entry.incoming):
            entries = {entry.name: entry for entry in some if not entry.layer}
            due = self._running.hurry(directory, entries.keys())
            results += [Done(entries[name], "retried") for name in due]
        return report("retry", results, (), trial=False)

    def _end_rules(self, nodes: frozenset[str]) -> None:
        if nodes:
            for spool in self._spools:
                self._running.note_rules(spool, change_rules(spool, remove=nodes))

    def _released_nodes(self, choice: Choice, rules: frozenset[str]) -> frozenset[str]:
        """Return the nodes whose files are no longer set aside after this."""
        if choice.is_all:
            return rules
        return self._node_ids(choice) & rules if choice.is_by_node else frozenset()

    def _choose(self, choice: Choice) -> list[Entry]:
        entries = self._read(by_arrival=choice.by_arrival)
        nodes = self._find_nodes(choice, entries) if choice.nodes else None
        return sorted(choose(entries, choice, nodes, time.time()), key=_rank)

    def _each(self, choice: Choice) -> Iterator[Entry]:
        """Yield the chosen files in no order, one after the other."""
        nodes = self._node_ids(choice) if choice.nodes else None
        entries = each_entry(self._spools, by_arrival=choice.by_arrival, gently=self._is_running)
        return chosen(entries, choice, nodes, time.time())

    def _read(self, *, by_arrival: bool = False) -> list[Entry]:
        return read_entries(self._spools, by_arrival=by_arrival, gently=self._is_running)

    def _node_ids(self, choice: Choice) -> frozenset[str]:
        known = {*self._hostnames, *self._hostnames.values()}
        # The files are only looked through for a node that the nodes list does not have.
        listed = all(part in known for part in choice.nodes)
        return self._find_nodes(choice, () if listed else self._read())

    def _find_nodes(self, choice: Choice, entries: Iterable[Entry]) -> frozenset[str]:
        ids = {entry.node_id for entry in entries} | self._rules()
        return self._find(choice.nodes, ids, self._hostnames)

    def _rules(self) -> frozenset[str]:
        return frozenset(node for spool in self._spools for node in read_rules(spool))

    def _nodes_on_hold(self) -> list[NodeOnHold]:
        rules: dict[str, Rule] = {}
        for spool in self._spools:
            rules |= read_rules(spool)
        if not rules:
            return []
        files = dict.fromkeys(rules, 0)
        for entry in self._read():
            if entry.layer and entry.node_id in files:
                files[entry.node_id] += 1
        return [
            NodeOnHold(
                node, self._hostnames.get(node, ""), in_utc(rule.since), rule.by, files[node]
            )
            for node, rule in sorted(rules.items())
        ]

    def _views(self, entries: Sequence[Entry], now: float, *, details: bool) -> Iterator[FileView]:
        known = {
            path: self._running.attempts(path) for spool in self._spools for path in spool.watched
        }
        parents: dict[tuple[Path, str, str], tuple[str, Mapping[str, Attempt]]] = {}
        for entry in entries:
            place = entry.spool.directory, entry.place, entry.layer
            if (at := parents.get(place)) is None:
                attempts = {} if entry.layer else known[entry.incoming]
                parents[place] = at = shown(entry.parent), attempts
            hostname = self._hostnames.get(entry.node_id, "")
            seen = view(entry, at[0], hostname, at[1].get(entry.name), now)
            yield detailed(entry, seen) if details else seen

    def _call(self, node_id: str) -> str:
        """Return what people call a node."""
        return self._hostnames.get(node_id, "") or node_id


def _rank(entry: Entry) -> tuple[float, str, str]:
    return entry.rank


def _counted(entries: Iterable[Entry], counts: Counter[bool]) -> Iterator[Entry]:
    """Pass files on, and count those that wait (False) and those that were set aside (True)."""
    for entry in entries:
        counts[bool(entry.layer)] += 1
        yield entry


_RULED: Final = "its node is on hold; release it with --node"
