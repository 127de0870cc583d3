"""The files that wait in a spool, and those that an operator has set aside.

    incoming/NAME ─▶ on-hold/incoming/NAME ─▶ incoming/NAME again

A second file of a name goes to `on-hold/incoming~1`, and so on. Everything is read from the names:
a spool may have some hundred thousand files.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from relayd.errors import StartError
from relayd.runlog.filename import run_of
from relayd.spool.layout import ON_HOLD, TEMPORARY, Spool
from relayd.spool.watching.listing import is_ours
from relayd.system.printable import shown
from relayd.system.shortage import words_of

#: Inventories are named by the node's id, mostly after its host name.
_NODE_ID: Final = re.compile(
    r"(?:\A|[-_])(root|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\."
)
_LAYER: Final = re.compile(r"([a-z-]+)(?:~([1-9][0-9]{0,5}))?")
#: A pause after so many files lets the event loop run, see `relayd.spool.watching.listing`.
_PAUSE_EVERY: Final = 512
_PAUSE_S: Final = 0.00005


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A file that waits, or that was set aside.

    Attributes:
        spool: the spool that it belongs to.
        place: the watched directory that it arrived in, by its name.
        name: base name.
        node_id: of its name; may be empty.
        dated: Unix time of the run by its name; of its arrival for a file without.
        layer: directory in `on-hold` of one that was set aside; "" if it waits.
    """

    spool: Spool
    place: str
    name: str
    node_id: str
    dated: float
    layer: str = ""

    @property
    def incoming(self) -> Path:
        """The watched directory."""
        return _watched(self.spool.directory, self.place)

    @property
    def path(self) -> str:
        """Where it lies; text, because there may be some hundred thousand."""
        return f"{self.parent}/{self.name}"

    @property
    def parent(self) -> str:
        """The directory in which it lies."""
        return _parent(self.spool.directory, self.place, self.layer)

    @property
    def shown(self) -> str:
        """The name as text: bytes that are not UTF-8 become escapes."""
        return shown(self.name)

    @property
    def rank(self) -> tuple[float, str, str]:
        """What sorts files by age."""
        return self.dated, self.name, self.layer


def node_of(name: str, *, ordered: bool) -> str:
    """Return the node id in a name, "" if there is none.

    Args:
        name: base name.
        ordered: whether it is the name of a run log.
    """
    if ordered:
        run = run_of(name)
        return "" if run is None else run[0]
    found = _NODE_ID.search(name)
    return "" if found is None else found[1]


def read_entries(
    spools: Iterable[Spool], *, by_arrival: bool = False, gently: bool = False
) -> list[Entry]:
    """Return all files that wait or were set aside, in no order; see `each_entry`."""
    return list(each_entry(spools, by_arrival=by_arrival, gently=gently))


def each_entry(
    spools: Iterable[Spool], *, by_arrival: bool = False, gently: bool = False
) -> Iterator[Entry]:
    """Yield all files that wait or were set aside, in no order, without keeping them.

    Args:
        spools: where to look; directories that do not exist count as empty.
        by_arrival: whether each file is dated by its arrival, which takes a system call for each.
        gently: whether to let an event loop in this process run meanwhile.

    Raises:
        StartError: a directory cannot be read.
    """
    for spool in spools:
        for path, place, layer in _directories(spool):
            try:
                found = _read(spool, path, place, layer, by_arrival=by_arrival)
                yield from _pausing(found) if gently else found
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StartError(f"{path} cannot be read: {words_of(error)}") from error


def find_entry(spools: Iterable[Spool], name: str) -> Entry | None:
    """Return the file of a name that waits or was set aside, None without one.

    Args:
        spools: where to look; directories that do not exist count as empty.
        name: base name; anything else, as a path, is none.

    Raises:
        StartError: the directories of files that were set aside cannot be listed.
    """
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        return None
    for spool in spools:
        for path, place, layer in _directories(spool):
            if not _is_listed(spool, name, layer):
                continue
            with suppress(OSError):  # it is not here, or its name is longer than any can be
                arrived = (path / name).lstat().st_mtime
                run = run_of(name) if spool.ordered else None
                node_id = node_of(name, ordered=spool.ordered)
                dated = arrived if run is None else run[1]
                return Entry(spool, place, name, node_id, dated, layer)
    return None


def waiting_names(
    spools: Iterable[Spool], *, part: str = "", gently: bool = False
) -> Iterator[tuple[Spool, Path, str]]:
    """Yield spool, directory and base name of each file that waits, in no order.

    Args:
        spools: where to look; directories that do not exist count as empty.
        part: of the names that are wanted, "" for all.
        gently: whether to let an event loop in this process run meanwhile.

    Raises:
        StartError: a directory cannot be read.
    """
    for spool in spools:
        for path in spool.watched:
            try:
                with os.scandir(path) as files:
                    for number, file in enumerate(files):
                        if gently and number % _PAUSE_EVERY == 0:
                            time.sleep(_PAUSE_S)
                        name = file.name
                        if part in name and is_ours(name, spool.extensions, hidden=spool.hidden):
                            yield spool, path, name
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StartError(f"{path} cannot be read: {words_of(error)}") from error


def count_waiting(spools: Iterable[Spool], *, gently: bool = False) -> dict[str, int]:
    """Return how many files of each node wait, see `waiting_names`."""
    counts: dict[str, int] = {}
    for spool, _, name in waiting_names(spools, gently=gently):
        node_id = node_of(name, ordered=spool.ordered)
        counts[node_id] = counts.get(node_id, 0) + 1
    return counts


def waiting_of(
    spools: Iterable[Spool], node_id: str, *, gently: bool = False
) -> Iterator[tuple[Spool, Path, str]]:
    """Yield the files of a node that wait, see `waiting_names`."""
    for spool, path, name in waiting_names(spools, part=node_id, gently=gently):
        if node_of(name, ordered=spool.ordered) == node_id:
            yield spool, path, name


def layers(spool: Spool) -> list[tuple[str, str]]:
    """Return the directories of files that were set aside: each with its watched directory.

    Raises:
        StartError: they cannot be listed.
    """
    try:
        names = [entry.name for entry in spool.on_hold.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StartError(f"{spool.on_hold} cannot be read: {words_of(error)}") from error
    found = [match for name in names if (match := _LAYER.fullmatch(name))]
    found.sort(key=lambda match: int(match[2] or 0))
    return [(match[0], match[1]) for match in found if match[1] in spool.places]


def layer_name(place: str, number: int) -> str:
    """Return the directory in `on-hold` for the files of a place; 0 is the first."""
    return f"{place}~{number}" if number else place


@lru_cache
def _watched(directory: Path, place: str) -> Path:
    return directory / place


@lru_cache
def _parent(directory: Path, place: str, layer: str) -> str:
    return str(directory / ON_HOLD / layer if layer else directory / place)


def _directories(spool: Spool) -> Iterator[tuple[Path, str, str]]:
    for place in spool.places:
        yield spool.directory / place, place, ""
    for layer, place in layers(spool):
        yield spool.on_hold / layer, place, layer


def _pausing(entries: Iterator[Entry]) -> Iterator[Entry]:
    for number, entry in enumerate(entries):
        if number % _PAUSE_EVERY == 0:
            time.sleep(_PAUSE_S)
        yield entry


def _read(spool: Spool, path: Path, place: str, layer: str, *, by_arrival: bool) -> Iterator[Entry]:
    with os.scandir(path) as files:
        for file in files:
            name = file.name
            if not _is_listed(spool, name, layer):
                continue
            run = run_of(name) if spool.ordered else None
            if run is not None and not by_arrival:
                yield Entry(spool, place, name, run[0], run[1], layer)
                continue
            node_id = run[0] if run is not None else node_of(name, ordered=spool.ordered)
            with suppress(FileNotFoundError):
                arrived = file.stat(follow_symlinks=False).st_mtime
                yield Entry(spool, place, name, node_id, arrived, layer)


def _is_listed(spool: Spool, name: str, layer: str) -> bool:
    if layer:
        return not name.startswith(TEMPORARY)
    return is_ours(name, spool.extensions, hidden=spool.hidden)
