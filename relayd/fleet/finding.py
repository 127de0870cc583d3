"""Finding nodes by what operators call them: an id, a host name, or a part of either."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from relayd.errors import RelaydError, StartError
from relayd.system.printable import printable

#: Candidates that are named when a part is ambiguous.
_CANDIDATES: Final = 20
#: Characters of a pattern as in a shell, which host names do not have.
_PATTERN: Final = frozenset("*?")
_WHAT: Final = "an id, a host name, or a part that no other node has"
_ALL: Final = "relayd nodes lists all"
#: Characters of a part that an error repeats.
_SHOWN: Final = 80


class NoSuchNodeError(RelaydError):
    """What an operator wrote fits no node, or several; the text names some of these."""


def find_node(part: str, hostnames: Mapping[str, str], option: str = "") -> str:
    """Return the id of the only node that is meant.

    A whole id or host name is preferred to a host name without its domain, and that to a part of
    others: `web-1` is web-1.example.com, also where there is a web-12.example.com.

    Args:
        part: an id, a host name, or a part of either.
        hostnames: node id → host name, which may be empty.
        option: that it was written after, which an error repeats; "" for an argument.

    Raises:
        NoSuchNodeError: the part fits no node, or several.
    """
    if part in hostnames:
        return part
    found = _fitting(part, hostnames) if part else []
    if len(found) == 1:
        return found[0]
    shown = f"{option} {printable(part, _SHOWN) or '(empty)'}".lstrip()
    if not found:
        if not _PATTERN.isdisjoint(part):
            raise NoSuchNodeError(f"{shown}: patterns are not possible here; write {_WHAT}")
        raise NoSuchNodeError(f"{shown}: no node has this in its id or host name; {_ALL}")
    raise NoSuchNodeError(f"{shown}: {len(found):,} nodes fit: {_candidates(found, hostnames)}")


def _fitting(part: str, hostnames: Mapping[str, str]) -> list[str]:
    """Return the nodes that fit best."""
    found = [node_id for node_id, name in hostnames.items() if part == name]
    if not found:
        found = [node_id for node_id, name in hostnames.items() if name.startswith(f"{part}.")]
    return found or [one for one, name in hostnames.items() if part in one or part in name]


def find_nodes(
    parts: Sequence[str], ids: Iterable[str], hostnames: Mapping[str, str]
) -> frozenset[str]:
    """Return the ids of the nodes that are meant by the options `--node`.

    Args:
        parts: ids, host names, or unique parts of either.
        ids: of nodes that may be missing in the nodes list.
        hostnames: of the nodes list, by id.

    Raises:
        StartError: a part fits no node, or several.
    """
    known = {node_id: "" for node_id in ids if node_id} | dict(hostnames)
    try:
        return frozenset(find_node(part, known, "--node") for part in parts)
    except NoSuchNodeError as error:
        raise StartError(str(error)) from None


def _candidates(found: Sequence[str], hostnames: Mapping[str, str]) -> str:
    """Return the first nodes: by host name, unless that does not tell them apart."""
    first = sorted(found, key=lambda node_id: hostnames[node_id] or node_id)[:_CANDIDATES]
    names = [hostnames[node_id] or node_id for node_id in first]
    if len(set(names)) < len(names):
        names = list(first)
    rest = len(found) - _CANDIDATES
    more = f" and {rest:,} more; {_ALL}" if rest > 0 else ""
    return ", ".join(map(printable, names)) + more
