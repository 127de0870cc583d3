"""The refused files of an installation, and the choice of some of them."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from relayd.errors import Reason, StartError
from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLogName
from relayd.spool.failed.quarantine import name_of_upload
from relayd.spool.failed.reasons import SUFFIX, ReasonRecord, read_reason, reason_path
from relayd.spool.layout import Spool
from relayd.system.printable import shown
from relayd.system.shortage import words_of

#: What stands for the reason of a file that has none next to it.
UNEXPLAINED: Final = "unexplained"


class Refusal(msgspec.Struct, frozen=True):
    """A refused file.

    Attributes:
        path: where it lies.
        spool: the spool that it belongs to.
        name: the base name under which it was received.
        reason: why it was refused; `UNEXPLAINED` if no reason lies next to it.
        detail: the fault, one line; may be empty.
        node_id: of its name; may be empty.
        at: when it was refused, Unix time.
        size: bytes.
        hostname: of the node; empty if it is not known, or was not looked up.
    """

    path: Path
    spool: Spool
    name: str
    reason: str
    detail: str
    node_id: str
    at: float
    size: int
    hostname: str = ""


class Choice(msgspec.Struct, frozen=True):
    """Which refused files are meant; a file has to meet all conditions.

    Attributes:
        names: base names, original or as in `failed`, or paths, each as `shown`; any if empty.
        reasons: any if empty.
        node_ids: any if None.
        since: Unix time at which they were refused at the earliest.
    """

    names: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    node_ids: frozenset[str] | None = None
    since: float = 0.0

    def includes(self, refusal: Refusal) -> bool:
        """Return whether a file is meant."""
        return (
            (not self.names or bool(self.names & self._names_of(refusal)))
            and (not self.reasons or refusal.reason in self.reasons)
            and (self.node_ids is None or refusal.node_id in self.node_ids)
            and refusal.at >= self.since
        )

    @staticmethod
    def _names_of(refusal: Refusal) -> set[str]:
        return set(map(shown, (refusal.name, refusal.path.name, str(refusal.path))))


def read_refusals(
    spools: Iterable[Spool], wanted: Callable[[Path], bool] = lambda _path: True
) -> list[Refusal]:
    """Return refused files, the oldest first; blocks.

    Args:
        spools: that they belong to.
        wanted: says by its path whether a file is of interest.

    Raises:
        StartError: a directory cannot be read.
    """
    found: list[Refusal] = []
    for spool in spools:
        try:
            found += _read(spool, wanted)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StartError(f"{spool.failed} cannot be read: {words_of(error)}") from error
    return sorted(found, key=lambda refusal: (refusal.at, refusal.name))


def _read(spool: Spool, wanted: Callable[[Path], bool]) -> Iterator[Refusal]:
    with os.scandir(spool.failed) as entries:
        for entry in entries:
            # A hidden file is one that is being moved.
            if entry.name.startswith(".") or entry.name.endswith(SUFFIX):
                continue
            path = Path(entry.path)
            if not wanted(path):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # moved back meanwhile
            yield _refusal(path, spool, status)


def _refusal(path: Path, spool: Spool, status: os.stat_result) -> Refusal:
    record = _record(path)
    if record is None:
        name = name_of_upload(path.name)
        parsed = parse_name(name)
        node_id = parsed.node_id if isinstance(parsed, RunLogName) else ""
        return Refusal(path, spool, name, UNEXPLAINED, "", node_id, status.st_mtime, status.st_size)
    return Refusal(
        path,
        spool,
        record.name,
        record.reason.value,
        record.detail,
        record.node,
        _time(record, status),
        status.st_size,
    )


def _record(path: Path) -> ReasonRecord | None:
    try:
        record = read_reason(reason_path(path))
    except OSError:
        return None
    # A reason that names a file elsewhere was not written by relayd.
    return None if record is None or "/" in record.name else record


def _time(record: ReasonRecord, status: os.stat_result) -> float:
    try:
        return datetime.fromisoformat(record.time).timestamp()
    except ValueError:
        return status.st_mtime


class Group(msgspec.Struct, frozen=True):
    """The refused files with one reason.

    Attributes:
        reason: of all of them.
        files: how many.
        nodes: of how many nodes.
        size: their bytes.
        oldest_s: seconds since the oldest was refused.
        advice: what to do about them.
    """

    reason: str
    files: int
    nodes: int
    size: int
    oldest_s: float
    advice: str


def grouped(refusals: Sequence[Refusal], now: Callable[[], float] = time.time) -> list[Group]:
    """Return one group for each reason, the largest first."""
    by_reason: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        by_reason.setdefault(refusal.reason, []).append(refusal)
    groups = [
        Group(
            reason,
            len(some),
            len({refusal.node_id for refusal in some if refusal.node_id}),
            sum(refusal.size for refusal in some),
            max(0.0, now() - min(refusal.at for refusal in some)),
            ADVICE[reason],
        )
        for reason, some in by_reason.items()
    ]
    return sorted(groups, key=lambda group: (-group.files, group.reason))


#: What to do about each reason, in a few words; docs/guide.md has more.
ADVICE: Final = {
    Reason.BAD_NAME.value: "not the name of a run log: see who uploads it",
    Reason.UNKNOWN_NODE.value: "accept the node; its files then come back by themselves",
    Reason.NO_CERTIFICATE.value: "regenerate the policies; they then come back by themselves",
    Reason.NOT_A_FILE.value: "see who makes links or directories in the spool",
    Reason.EMPTY.value: "see whether the node's disk is full; it sends the next one",
    Reason.TOO_LARGE.value: "see why the node logs so much, or raise max_size and replay",
    Reason.ARCHIVE.value: "cut upload: the node sends the next one",
    Reason.MIME.value: "not signed as agents do: see who uploads it",
    Reason.SIGNATURE.value: "changed after signing: find out by whom",
    Reason.UNKNOWN_SIGNER.value: "see whether the node's key was changed, or it is a forgery",
    Reason.NO_REPORT.value: "see the agent's own output on the node",
    Reason.NODE_MISMATCH.value: "a node reports for another: find out why",
    Reason.DATABASE.value: "fix the tables; they then come back by themselves",
    Reason.WORKER_CRASH.value: "keep it and report it as a bug",
    Reason.EXPIRED.value: "fix the cause of the delay, then: relayd failed replay",
    UNEXPLAINED: "no reason lies next to it: relayd inspect FILE",
}
