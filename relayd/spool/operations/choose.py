"""Which files an operator means."""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from relayd.spool.operations.entries import Entry

State = Literal["waiting", "held"]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which files are meant; a file has to meet all conditions that are given.

    Attributes:
        names: base names or paths.
        nodes: ids of nodes, their host names, or parts of either that no other node has.
        match: patterns of names, as in a shell.
        older: seconds that a file is old at least.
        newer: seconds that a file is old at most; 0: any.
        state: only files that wait, or only files that were set aside.
        by_arrival: whether a file's age counts from its arrival and not from its run.
    """

    names: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    match: tuple[str, ...] = ()
    older: float = 0.0
    newer: float = 0.0
    state: State | None = None
    by_arrival: bool = False

    @property
    def is_all(self) -> bool:
        """Whether no condition chooses some of the files."""
        return not (self.names or self.nodes or self.match or self.older or self.newer)

    @property
    def is_by_node(self) -> bool:
        """Whether all files of some nodes are meant, those that are still to arrive too."""
        return bool(self.nodes) and not (self.names or self.match or self.older or self.newer)


def choose(
    entries: Iterable[Entry], choice: Choice, node_ids: frozenset[str] | None, now: float
) -> list[Entry]:
    """Return the files that are meant, in no order; see `chosen`."""
    return list(chosen(entries, choice, node_ids, now))


def chosen(
    entries: Iterable[Entry], choice: Choice, node_ids: frozenset[str] | None, now: float
) -> Iterator[Entry]:
    """Yield the files that are meant, in no order, without keeping them.

    Args:
        entries: all files.
        choice: the conditions.
        node_ids: the nodes that `choice.nodes` means; None if any will do.
        now: Unix time.
    """
    names = frozenset(choice.names)
    patterns = [re.compile(fnmatch.translate(pattern)) for pattern in choice.match]
    latest = now - choice.older if choice.older else float("inf")
    earliest = now - choice.newer if choice.newer else float("-inf")
    held = None if choice.state is None else choice.state == "held"
    if choice.is_all and held is None:
        return iter(entries)
    return (
        entry
        for entry in entries
        if earliest <= entry.dated <= latest
        and (node_ids is None or entry.node_id in node_ids)
        and (held is None or bool(entry.layer) is held)
        and (not names or _is_named(entry, names))
        and (not patterns or any(pattern.match(entry.name) for pattern in patterns))
    )


def _is_named(entry: Entry, names: frozenset[str]) -> bool:
    return (
        entry.name in names
        or entry.shown in names
        or any("/" in name and name == entry.path for name in names)
    )
