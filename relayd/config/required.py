"""Keys of `main.conf` that are missing although the value of another key requires them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from relayd.errors import ConfigWarning, RelaydError, SettingError, StartError
from relayd.system.printable import printable

_HOST: Final = "output.upstream.host"
_NODE_ID: Final = ("general.node_id", "general.node_id_file")


def missing_values(
    path: Path,
    required: Iterable[tuple[str, str]],
    invalid: Sequence[SettingError],
    warnings: Sequence[ConfigWarning],
) -> Iterator[RelaydError]:
    """Yield an error for each key that another one requires, unless it has an error itself.

    Args:
        path: the file, for messages only.
        required: the keys without a value, and why each needs one.
        invalid: errors of values.
        warnings: about the file; an unknown key may be the misspelt name of a missing one.
    """
    for key, why in required:
        if not _is_invalid(key, invalid):
            yield _missing(path, key, why, warnings)


def missing_host(
    path: Path,
    node_id_key: str,
    node_id: str,
    invalid: Sequence[SettingError],
    warnings: Sequence[ConfigWarning],
) -> Iterator[RelaydError]:
    """Yield an error if there is no upstream although this is not the root server.

    Args:
        path: the file, for messages only.
        node_id_key: the key that has the node id, or the name of its file.
        node_id: the node id.
        invalid: errors of values.
        warnings: about the file.
    """
    if _is_invalid(_HOST, invalid):
        return
    if node_id.strip().lower() == "root" != node_id:
        got = f'"{printable(node_id, 60)}"'
        yield SettingError(node_id_key, '"root", the id of the root server', got, file=path)
    elif node_id != "root":
        yield _missing(path, _HOST, "on every node but root", warnings)


def node_id_of(
    read_node_id: Callable[[], str], invalid: Sequence[SettingError]
) -> str | StartError | None:
    """Return the node id, or why it cannot be read; None if a value that leads to it is not valid.

    Args:
        read_node_id: returns the node id.
        invalid: errors of values.
    """
    if any(_is_invalid(key, invalid) for key in _NODE_ID):
        return None
    try:
        return read_node_id()
    except StartError as error:
        return error


def _is_invalid(key: str, invalid: Sequence[SettingError]) -> bool:
    """Return whether a value, or a table around it, has an error itself."""
    return any(key == error.key or key.startswith(f"{error.key}.") for error in invalid)


def _missing(path: Path, key: str, why: str, warnings: Sequence[ConfigWarning]) -> SettingError:
    instead = _unknown_key_for(key, warnings)
    return SettingError(key, f"a value {why}", None, file=path, instead=instead)


def _unknown_key_for(key: str, warnings: Sequence[ConfigWarning]) -> str | None:
    """Return an unknown key or table that was probably meant as `key`, or as a table around it."""
    for warning in warnings:
        if warning.key is None or warning.suggestion is None:
            continue
        if key == warning.suggestion or key.startswith(f"{warning.suggestion}."):
            return warning.key
    return None
