"""What operators have set aside: files, and nodes whose files do not even arrive."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from relayd.errors import StartError
from relayd.spool.layout import Spool
from relayd.spool.operations.entries import layers, node_of
from relayd.spool.operations.rules import Rule, read_rules


class OnHold(NamedTuple):
    """What is on hold.

    Attributes:
        files: how many were set aside.
        nodes: how many have all that arrives set aside.
    """

    files: int
    nodes: int


def count_held(spools: Iterable[Spool]) -> int:
    """Return the number of files that `relayd queue hold` has set aside; blocks.

    What cannot be read counts as nothing.
    """
    return sum(_count(spool) for spool in spools)


def look_at_held(spools: Iterable[Spool]) -> OnHold:
    """Return what is on hold; blocks. What cannot be read counts as nothing."""
    spools = list(spools)
    nodes = {node_id for spool in spools for node_id in _rules(spool)}
    return OnHold(count_held(spools), len(nodes))


def held_of(spools: Iterable[Spool], node_id: str) -> tuple[int, Rule | None]:
    """Return how many files of a node are on hold, and why all that arrives is, if so; blocks.

    What cannot be read counts as nothing.
    """
    spools = list(spools)
    rules = (_rules(spool).get(node_id) for spool in spools)
    return sum(_count(spool, node_id) for spool in spools), next(filter(None, rules), None)


def _rules(spool: Spool) -> dict[str, Rule]:
    try:
        return read_rules(spool)
    except StartError:
        return {}


def _count(spool: Spool, node_id: str | None = None) -> int:
    """Return how many files are on hold, all or those of a node."""
    total = 0
    try:
        for layer, _place in layers(spool):
            with os.scandir(spool.on_hold / layer) as entries:
                total += sum(
                    node_id is None or node_of(entry.name, ordered=spool.ordered) == node_id
                    for entry in entries
                )
    except (OSError, StartError):
        return total
    return total
