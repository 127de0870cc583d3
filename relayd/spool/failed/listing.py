"""Refused files as operators ask for them, and as they are listed: every name is text."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from relayd.spool.failed.refusals import Choice, Refusal, read_refusals
from relayd.spool.layout import Spool, inventory_spool, run_log_spool
from relayd.system.clock import in_utc
from relayd.system.printable import names_of, shown

#: Returns the ids of the nodes that an operator means, of these ids and those of the nodes list;
#: raises `StartError`.
FindNodes = Callable[[Sequence[str], Iterable[str]], frozenset[str]]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which refused files are meant; a file has to meet all conditions.

    Attributes:
        names: base names, original or as in `failed`, or paths; any if empty.
        reasons: any if empty.
        nodes: ids, host names, or unique parts of either; any if empty.
        since: Unix time at which they were refused at the earliest.
    """

    names: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    since: float = 0.0


class Listed(msgspec.Struct, frozen=True):
    """A refused file.

    Attributes:
        file: its path.
        name: the base name under which it was received.
        run_log: whether it is a run log; else an inventory.
        reason: why it was refused.
        detail: the fault, one line; may be empty.
        node: id of its node; may be empty.
        hostname: of the node; empty if it is not known.
        refused_at: RFC 3339.
        bytes: its size.
    """

    file: str
    name: str
    run_log: bool
    reason: str
    detail: str
    node: str
    hostname: str
    refused_at: str
    bytes: int


def list_refusals(
    spools: Iterable[Spool], asked: Asked, find: FindNodes, hostnames: Mapping[str, str]
) -> list[Listed]:
    """Return the refused files that are meant, the oldest first; blocks.

    Args:
        spools: that they belong to.
        asked: which are meant.
        find: finds nodes.
        hostnames: of nodes, by id.

    Raises:
        StartError: a directory cannot be read, or a node is not found.
    """
    refusals = read_refusals(spools)
    nodes = find(asked.nodes, {one.node_id for one in refusals}) if asked.nodes else None
    choice = Choice(frozenset(asked.names), frozenset(asked.reasons), nodes, asked.since)
    return [
        _listed(refusal, hostnames.get(refusal.node_id, ""))
        for refusal in refusals
        if choice.includes(refusal)
    ]


def _listed(refusal: Refusal, hostname: str) -> Listed:
    return Listed(
        shown(str(refusal.path)),
        shown(refusal.name),
        refusal.spool.ordered,
        refusal.reason,
        refusal.detail,
        shown(refusal.node_id),
        hostname,
        in_utc(refusal.at),
        refusal.size,
    )


def as_refusal(listed: Listed) -> Refusal:
    """Return a listed file as what can be examined and moved; blocks for a moment."""
    names = [Path(name) for name in names_of(listed.file)]
    path = next(filter(os.path.lexists, names), Path(listed.file))
    make = run_log_spool if listed.run_log else inventory_spool
    return Refusal(
        path,
        make(path.parent.parent),
        listed.name,
        listed.reason,
        listed.detail,
        listed.node,
        datetime.fromisoformat(listed.refused_at).timestamp(),
        listed.bytes,
        listed.hostname,
    )
