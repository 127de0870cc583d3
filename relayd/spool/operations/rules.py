"""The nodes whose files are set aside as they arrive, in a small file in `on-hold`."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from relayd.errors import UNDECODABLE, StartError
from relayd.spool.failed.moving import sync_directory, temporary_path
from relayd.spool.layout import Spool, give_to_owner_of, make_beside
from relayd.system.files import write_all
from relayd.system.shortage import words_of

_FILE: Final = "nodes.json"
#: relayd writes far less, with tens of thousands of nodes.
_LARGEST: Final = 2**24


class Rule(msgspec.Struct, frozen=True):
    """Why a node's files are set aside.

    Attributes:
        since: Unix time.
        by: name of the user who asked for it.
    """

    since: float
    by: str


class _Document(msgspec.Struct, frozen=True):
    nodes: dict[str, Rule] = {}


def rules_path(spool: Spool) -> Path:
    """Return the file that keeps the rules of a spool."""
    return spool.on_hold / _FILE


def read_rules(spool: Spool) -> dict[str, Rule]:
    """Return the nodes whose files are set aside, by id.

    Raises:
        StartError: the file cannot be read, or relayd did not write it.
    """
    path = rules_path(spool)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123  the flags matter
            content = file.read(_LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StartError(f"{path} cannot be read: {words_of(error)}") from error
    try:
        return msgspec.json.decode(content, type=_Document).nodes
    except UNDECODABLE as error:
        raise StartError(f"{path} is not valid: {error}") from error


def change_rules(
    spool: Spool, *, add: Iterable[str] = (), remove: Iterable[str] = (), by: str = ""
) -> dict[str, Rule]:
    """Change the nodes whose files are set aside, in one step that survives a power loss.

    Args:
        spool: the spool.
        add: ids of nodes whose files are set aside from now on.
        remove: ids of nodes whose files are not set aside any longer.
        by: name of the user who asked for it.

    Returns:
        The nodes whose files are set aside now.

    Raises:
        StartError: the file cannot be read or written; nothing has changed.
    """
    before = read_rules(spool)
    rule = Rule(time.time(), by)
    after = {node: known for node, known in before.items() if node not in set(remove)}
    after |= {node: rule for node in add if node not in before}
    if after.keys() != before.keys():
        try:
            _write(spool, _Document(after))
        except OSError as error:
            raise StartError(f"{rules_path(spool)} cannot be written: {words_of(error)}") from error
    return after


def _write(spool: Spool, document: _Document) -> None:
    like = next(path for path in spool.watched if path.is_dir())
    make_beside(spool.on_hold, like)
    temporary = temporary_path(spool.on_hold)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o640)
    try:
        try:
            write_all(fd, msgspec.json.encode(document))
            os.fsync(fd)
        finally:
            os.close(fd)
        give_to_owner_of(temporary, like)
        temporary.rename(rules_path(spool))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(spool.on_hold)
