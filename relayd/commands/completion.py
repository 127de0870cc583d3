"""Names of nodes for the completion of shells; click completes commands, options and reasons."""

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from relayd.commands.installation import find_installation
from relayd.errors import UNDECODABLE, RelaydError
from relayd.system.files import open_regular

#: Bytes of a nodes list that is read: 50,000 nodes have 10 MB, which takes 0.1 s.
_MAX_BYTES: Final = 16 * 1024 * 1024
#: Names that a shell may get. Some of more would mislead it: it inserts what all have in common.
_MOST: Final = 1000
#: Seconds for asking relayd, in all: someone waits at a prompt.
_PATIENCE_S: Final = 0.3
#: Nodes that it is asked for; of a larger fleet there would be gaps.
_MOST_ASKED: Final = 10_000


class _Named(msgspec.Struct):
    hostname: object = ""


class _Row(msgspec.Struct):
    node_id: str
    hostname: str


class _Page(msgspec.Struct):
    rows: list[_Row]
    total: int


def complete_node(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the host names, or ids, that begin with what was written; none if it is not known."""
    directory = context.params.get("directory")
    if not isinstance(directory, Path):
        return []
    with suppress(RelaydError, OSError, *UNDECODABLE):
        site = find_installation(directory)
        if site.settings is None:
            nodes = _asked(site.socket)
        else:
            nodes = _listed(site.settings.general.nodes_list_file)
        found = list(_names(nodes, incomplete))
        return found if len(found) <= _MOST else []
    return []


def _asked(path: Path | None) -> dict[str, _Named]:
    """Return the nodes that relayd knows; none if it does not say so in time."""
    from relayd.control.client import Control  # nothing else needs it at the start

    found: dict[str, _Named] = {}

    def ask() -> None:
        with suppress(RelaydError, msgspec.ValidationError):
            data: Any = Control(path, _PATIENCE_S).get("/nodes", limit=_MOST_ASKED)
            page = msgspec.convert(data, _Page)
            if page.total <= len(page.rows):
                found.update((row.node_id, _Named(row.hostname)) for row in page.rows)

    # The socket bounds only the time without a byte. The process does not wait for the thread.
    asking = threading.Thread(target=ask, name="ask", daemon=True)
    asking.start()
    asking.join(_PATIENCE_S)
    return {} if asking.is_alive() else found


def _listed(path: Path) -> dict[str, _Named]:
    """Return the nodes of a nodes list; none of one that takes too long to read."""
    with open_regular(path) as file:
        data = file.read(_MAX_BYTES + 1)
    return {} if len(data) > _MAX_BYTES else msgspec.json.decode(data, type=dict[str, _Named])


def _names(nodes: dict[str, _Named], incomplete: str) -> Iterable[str]:
    for node_id, entry in nodes.items():
        name = str(entry.hostname)
        if name.startswith(incomplete) and name.isprintable() and name:
            yield name
        elif incomplete and node_id.startswith(incomplete) and node_id.isprintable():
            yield node_id
