"""Keys of `main.conf` that are missing although the value of another key requires them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relayd.errors import ConfigWarning, RelaydError, SettingError, StartError
from relayd.system.printable import printable

if TYPE_CHECKING:
    from relayd.config.main_conf import Settings

_HOST: Final = "output.upstream.host"
_NODE_ID: Final = "general.node_id"


def missing_values(
    path: Path,
    settings: "Settings",
    invalid: Sequence[SettingError],
    warnings: Sequence[ConfigWarning],
) -> Iterator[RelaydError]:
    """Yield an error for each key that another one requires, unless it has an error itself.

    Reads the file with the node id if that matters.

    Args:
        path: the file, for messages only.
        settings: what it says.
        invalid: errors of its values.
        warnings: about it; an unknown key may be the misspelt name of a missing one.
    """
    known = {error.key for error in invalid}
    for key, why in _required(settings):
        if not any(key == other or key.startswith(f"{other}.") for other in known):
            yield _missing(path, key, why, warnings)
    if settings.output.upstream.host or known & {_HOST, _NODE_ID, "output", "general"}:
        return
    try:
        node_id = settings.node_id()
    except StartError as error:
        yield error
        return
    if node_id.strip().lower() == "root" != node_id:
        key = _NODE_ID if settings.general.node_id else "general.node_id_file"
        got = f'"{printable(node_id, 60)}"'
        yield SettingError(key, '"root", the id of the root server', got, file=path)
    elif node_id != "root":
        yield _missing(path, _HOST, "on every node but root", warnings)


def _required(settings: "Settings") -> Iterator[tuple[str, str]]:
    """Yield each key that is missing although an output needs it, and why."""
    outputs = {settings.processing.inventory.output, settings.processing.reporting.output}
    upstream, database = settings.output.upstream, settings.output.database
    if "upstream" in outputs and not upstream.password:
        yield "output.upstream.password", 'for an output to "upstream"'
    if "database" in outputs and not database.password:
        yield "output.database.password", 'for an output to "database"'


def _missing(path: Path, key: str, why: str, warnings: Sequence[ConfigWarning]) -> SettingError:
    instead = _unknown_key_for(key, warnings)
    return SettingError(key, f"a value {why}", None, file=path, instead=instead)


def _unknown_key_for(key: str, warnings: Sequence[ConfigWarning]) -> str | None:
    """Return an unknown key or table that was probably meant as `key`, or as a table around it."""
    for warning in warnings:
        if warning.key is None or warning.suggestion is None:
            continue
        table = warning.key.rpartition(".")[0]
        relative = f"{table}.{warning.suggestion}" if table else warning.suggestion
        for meant in (relative, warning.suggestion):
            if key == meant or key.startswith(f"{meant}."):
                return warning.key
    return None
