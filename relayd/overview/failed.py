"""How many refused files there are for each reason, without reading all of them each time."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nlargest
from pathlib import Path

import msgspec

from relayd.overview.model import FailedState
from relayd.spool.failed.reasons import SUFFIX, read_reason, reason_path
from relayd.spool.failed.refusals import UNEXPLAINED
from relayd.spool.layout import Spool


class _Known(msgspec.Struct, frozen=True, gc=False):
    reason: str
    node_id: str
    size: int
    at: float


class FailedIndex:
    """Refused files by reason and node; a look reads the reasons of new files only.

    Args:
        spools: whose directories `failed` are looked at.
    """

    def __init__(self, spools: Iterable[Spool]) -> None:
        self._directories = [spool.failed for spool in spools]
        self._known: dict[str, _Known] = {}
        self._times: dict[Path, int] = {}
        self._nodes: Counter[str] = Counter()

    def look(self) -> FailedState:
        """Return how many files there are now; blocks.

        A directory that cannot be read counts as empty, as does one that does not exist.
        """
        times = {path: _changed_at(path) for path in self._directories}
        if times != self._times:
            self._known = {
                path: known for one in self._directories for path, known in self._of(one)
            }
            self._nodes = Counter(known.node_id for known in self._known.values())
            self._times = times
        known = self._known.values()
        reasons = Counter(one.reason for one in known)
        octets = sum(one.size for one in known)
        return FailedState(files=len(known), bytes=octets, reasons=dict(reasons.most_common()))

    @property
    def nodes(self) -> Mapping[str, int]:
        """How many files of each node the latest look has found."""
        return self._nodes

    def find(self, name: str) -> tuple[Path, str] | None:
        """Return a file that the latest look has found, and its node; None if it has not.

        Args:
            name: base name.
        """
        for directory in self._directories:
            path = directory / name
            known = self._known.get(str(path))
            if known is not None:
                return path, known.node_id
        return None

    def files_with(self, reason: str, limit: int) -> tuple[list[Path], int]:
        """Return the latest files with a reason, and how many there are; without reading any."""
        found = [(known.at, path) for path, known in self._known.items() if known.reason == reason]
        return [Path(path) for _, path in nlargest(limit, found)], len(found)

    def files_of(self, node_id: str) -> list[Path]:
        """Return the files of a node that the latest look has found."""
        return [Path(path) for path, known in self._known.items() if known.node_id == node_id]

    def _of(self, directory: Path) -> Iterable[tuple[str, _Known]]:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.endswith(SUFFIX):
                        continue
                    known = self._known.get(entry.path)
                    try:
                        yield entry.path, known or _read(entry)
                    except OSError:
                        continue
        except OSError:
            return


def _read(entry: os.DirEntry[str]) -> _Known:
    stat = entry.stat(follow_symlinks=False)
    try:
        record = read_reason(reason_path(Path(entry.path)))
    except OSError:
        record = None
    if record is None:
        return _Known(UNEXPLAINED, "", stat.st_size, stat.st_ctime)
    return _Known(record.reason.value, record.node, stat.st_size, stat.st_ctime)


def _changed_at(directory: Path) -> int:
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0
