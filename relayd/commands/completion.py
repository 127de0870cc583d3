"""Names of nodes for the completion of shells; click completes commands, options and reasons."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
import msgspec

from relayd.config.main_conf import load_settings
from relayd.errors import UNDECODABLE, RelaydError
from relayd.system.files import open_regular

#: Bytes of a nodes list that is read: 50,000 nodes have 10 MB, which takes 0.1 s.
_MAX_BYTES: Final = 16 * 1024 * 1024
#: Names that a shell may get. Some of more would mislead it: it inserts what all have in common.
_MOST: Final = 1000


class _Named(msgspec.Struct):
    hostname: object = ""


def complete_node(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the host names, or ids, that begin with what was written; none if it is not known."""
    directory = context.params.get("directory")
    if not isinstance(directory, Path):
        return []
    with suppress(RelaydError, OSError, *UNDECODABLE):
        settings, _warnings = load_settings(directory)
        found = list(_names(settings.general.nodes_list_file, incomplete))
        return found if len(found) <= _MOST else []
    return []


def _names(path: Path, incomplete: str) -> Iterable[str]:
    with open_regular(path) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        return
    for node_id, entry in msgspec.json.decode(data, type=dict[str, _Named]).items():
        name = str(entry.hostname)
        if name.startswith(incomplete) and name.isprintable() and name:
            yield name
        elif incomplete and node_id.startswith(incomplete) and node_id.isprintable():
            yield node_id
