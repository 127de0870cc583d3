"""The nodes list: is it valid, and is there a route to every node in it?"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.foreign import choose_another, is_foreign
from relayd.commands.check.service_user.permissions import check_file
from relayd.commands.check.settings.places import judge_openness
from relayd.errors import NodesError
from relayd.fleet.loading import MAX_WARNINGS, NodesWarning, load_nodes
from relayd.fleet.nodes import Node, Nodes
from relayd.system.threads import in_thread

#: Names shown in a summary.
SHOWN: Final = 3

#: The fix for a broken nodes list or certificates file.
REGENERATE: Final = "regenerate the policies, so that the server writes it again"

_RENAME: Final = (
    "correct the host name on the node, send an inventory from it and regenerate the policies"
)
#: Code and fix of what is wrong with single entries.
_ENTRIES: Final = {
    "entry": ("nodes.entry", REGENERATE),
    "hostname": ("nodes.hostname", _RENAME),
    "more": ("nodes.more", REGENERATE),
}


async def check(site: Site) -> list[Finding]:
    """Check the nodes list."""
    return await in_thread(_check, site, abandon_on_cancel=True)


class _MissingError(NodesError):
    """There is no nodes list."""


def load(site: Site) -> tuple[Nodes, list[NodesWarning]]:
    """Load the nodes without certificates; also return what is wrong with entries of the list.

    Raises:
        NodesError: there is no list, or it is broken as a whole.
    """
    path = site.settings.general.nodes_list_file
    loaded = load_nodes(path, Path(os.devnull), site.my_id)
    if loaded.list_missing:
        raise _MissingError("does not exist", file=path)
    doubtful = [found for found in loaded.warnings if found.kind in ("entry", "hostname")]
    # Without certificates that is one problem more.
    more = loaded.problems - 1 - MAX_WARNINGS
    if more > 0:
        doubtful.append(NodesWarning("more", f"{more} more of its entries have such faults"))
    return loaded.nodes, doubtful


def _check(site: Site) -> list[Finding]:
    path = site.settings.general.nodes_list_file
    found = check_file(site, path, "nodes.permissions")
    if found:
        return found
    found = judge_openness(site, "nodes.writable", path, "whose run logs are accepted")
    try:
        nodes, doubtful = load(site)
    except _MissingError as failure:
        return [*found, *_judge_missing(site, failure)]
    except NodesError as failure:
        return [*found, _judge_broken(site, path, failure)]
    for entry in doubtful:
        code, fix = _ENTRIES[entry.kind]
        found.append(warning(code, path, entry.detail, fix))
    return found + _judge(site, path, nodes)


def _judge_missing(site: Site, failure: NodesError) -> list[Finding]:
    """Return a finding if something on this server needs the list; forwarding does not."""
    path, what = failure.file, failure.detail
    if site.examines:
        what = f"{what}; files wait until it can be read"
        return [error("nodes.broken", path, what, REGENERATE)]
    if not site.settings.remote_run.enabled:
        return []
    what = f"{what}; remote runs and shared files reach no node until it does"
    return [warning("nodes.broken", path, what, REGENERATE)]


def _judge_broken(site: Site, path: Path, failure: NodesError) -> Finding:
    effect = "files wait until it can be read" if site.examines else "a reload fails"
    fix = choose_another(site, path) if is_foreign(path) else REGENERATE
    return error("nodes.broken", path, f"{failure.detail}; {effect}", fix)


def _judge(site: Site, path: Path, nodes: Nodes) -> list[Finding]:
    found: list[Finding] = []
    if not nodes.sub_nodes:
        return [warning("nodes.nobody", path, "it lists no node", REGENERATE)]
    if site.my_id == "root" and nodes.get("root") is None:
        what = 'it does not list "root", which is this server'
        found.append(warning("nodes.myself", path, what, REGENERATE))
    if not nodes.managed_nodes:
        what = f"no node in it has policy server {site.my_id}"
        text = "correct general.node_id if it is wrong; otherwise regenerate the policies"
        return [*found, warning("nodes.nobody", path, what, text)]
    lost = [name for name in nodes.ids() if name != site.my_id and not is_below(nodes, name)]
    if lost:
        what = f"no route from here to {enumerate_some(lost, 'node')}"
        found.append(warning("nodes.unreachable", path, what, REGENERATE))
    return found


def every(nodes: Nodes) -> Iterator[Node]:
    """Yield all nodes, in the order of the list."""
    return filter(None, map(nodes.get, nodes.ids()))


def is_below(nodes: Nodes, node_id: str) -> bool:
    """Return whether a node is reached through this server."""
    try:
        nodes.next_hop(node_id)
    except NodesError:
        return False
    return True


def enumerate_some(names: Sequence[str] | Iterable[str], noun: str) -> str:
    """Return `2 nodes: a, b` or `7 nodes: a, b, c and 4 more`."""
    names = list(names)
    count = len(names)
    shown = ", ".join(names[:SHOWN])
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"{count} {noun}{'' if count == 1 else 's'}: {shown}{more}"
