"""The nodes list: whether it can be read, and whether every node in it can be reached."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file
from relayd.errors import NodesError
from relayd.fleet.loading import load_nodes
from relayd.fleet.nodes import Node, Nodes
from relayd.system.threads import in_thread

#: Names that a summary shows.
SHOWN: Final = 3


async def check(site: Site) -> list[Finding]:
    """Check the nodes list."""
    return await in_thread(_check, site, abandon_on_cancel=True)


def load(site: Site, certificates: Path) -> tuple[Nodes, list[str]]:
    """Load the nodes, and tell what was skipped of the list; raises NodesError."""
    path = site.settings.general.nodes_list_file
    loaded = load_nodes(path, certificates, site.my_id)
    if loaded.list_missing:
        raise NodesError(f"{path}: is not there")
    return loaded.nodes, [text for text in loaded.warnings if text.startswith(f"{path}: node ")]


def _check(site: Site) -> list[Finding]:
    path = site.settings.general.nodes_list_file
    found = check_file(site, path, "nodes.permissions")
    if found:
        return found
    mend = "have the server write it again: regenerate the policies"
    try:
        nodes, skipped = load(site, Path("/dev/null"))
    except NodesError as failure:
        what = f"{str(failure).removeprefix(f'{path}: ')}; files wait until it can be read"
        return [error("nodes.broken", path, what, mend)]
    for text in skipped:
        what = text.removeprefix(f"{path}: ")
        found.append(warning("nodes.entry", path, what, mend))
    return found + _judge(site, path, nodes)


def _judge(site: Site, path: Path, nodes: Nodes) -> list[Finding]:
    found: list[Finding] = []
    mend = "have the server write it again: regenerate the policies"
    if site.my_id == "root" and nodes.get("root") is None:
        what = 'it does not list "root", which is this server'
        found.append(warning("nodes.myself", path, what, mend))
    if not nodes.managed_nodes:
        what = f"no node in it has {site.my_id} for its policy server"
        text = "see that general.node_id is right; else regenerate the policies"
        return [*found, warning("nodes.nobody", path, what, text)]
    lost = [name for name in nodes.ids() if name != site.my_id and not _is_below(nodes, name)]
    if lost:
        what = f"no way leads from here to {enumerate_some(lost, 'node')}"
        found.append(warning("nodes.unreachable", path, what, mend))
    return found


def every(nodes: Nodes) -> Iterator[Node]:
    """Give all nodes, in the order of the list."""
    return filter(None, map(nodes.get, nodes.ids()))


def _is_below(nodes: Nodes, node_id: str) -> bool:
    try:
        nodes.next_hop(node_id)
    except NodesError:
        return False
    return True


def enumerate_some(names: Sequence[str] | Iterable[str], noun: str) -> str:
    """Write `2 nodes: a, b` or `7 nodes: a, b, c and 4 more`."""
    names = list(names)
    count = len(names)
    shown = ", ".join(names[:SHOWN])
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"{count} {noun}{'' if count == 1 else 's'}: {shown}{more}"
