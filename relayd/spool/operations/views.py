"""What is said about files and operations, as values that become JSON without a further step."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Literal

import msgspec

from relayd.spool.operations.act import SUCCESS, Done, Outcome
from relayd.spool.operations.entries import Entry
from relayd.system.clock import in_utc
from relayd.system.printable import shown

#: Files of an operation that are named because they stayed.
NAMED: Final = 10

Action = Literal["hold", "release", "drop", "retry"]
#: "waiting": it waits for its turn; "in_flight": relayd works on it; "retry": it failed and waits
#: for another attempt; "held": an operator has set it aside.
FileState = Literal["waiting", "in_flight", "retry", "held"]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """What a running relayd knows of a file.

    Attributes:
        in_flight: whether relayd works on it.
        attempts: how many have failed.
        due_seconds: until the next attempt; None while it is in flight.
    """

    in_flight: bool
    attempts: int
    due_seconds: float | None = None


class FileView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A file as operators see it.

    Attributes:
        file: its path.
        name: base name.
        node: id of its node; may be empty.
        hostname: of its node; may be empty.
        state: see `FileState`; "waiting" for all that wait while relayd does not run.
        dated_at: time of the run by its name, or of the arrival of a file without, RFC 3339.
        age_seconds: since then.
        attempts: how many have failed; absent if relayd does not run, or none has.
        due_seconds: until the next attempt; absent if there is none.
        arrived_at: when it arrived, RFC 3339; only in details.
        bytes: its size; only in details.
    """

    file: str
    name: str
    node: str
    hostname: str
    state: FileState
    dated_at: str
    age_seconds: float
    attempts: int | None = None
    due_seconds: float | None = None
    arrived_at: str | None = None
    bytes: int | None = None


class NodeOnHold(msgspec.Struct, frozen=True):
    """A node whose files are set aside as they arrive.

    Attributes:
        node: its id.
        hostname: may be empty.
        since: RFC 3339.
        by: name of the user who asked for it.
        files: how many of them were set aside.
    """

    node: str
    hostname: str
    since: str
    by: str
    files: int


class Waiting(msgspec.Struct, frozen=True):
    """Files that were chosen.

    Attributes:
        waiting: how many wait.
        held: how many were set aside.
        oldest_seconds: age of the oldest one; None if there is none.
        nodes_on_hold: all of them, whatever was chosen.
        files: the oldest of the chosen files.
        running: whether relayd was asked, which knows of attempts.
    """

    waiting: int
    held: int
    oldest_seconds: float | None
    nodes_on_hold: list[NodeOnHold]
    files: list[FileView]
    running: bool


class Stayed(msgspec.Struct, frozen=True):
    """A file that an operation could not move.

    Attributes:
        name: base name.
        outcome: why, see `relayd.spool.operations.act.Outcome`.
        detail: one line; may be empty.
    """

    name: str
    outcome: Outcome
    detail: str


class Report(msgspec.Struct, frozen=True):
    """What an operation has done.

    Attributes:
        action: which one.
        trial: whether it has only counted.
        counts: files by outcome.
        nodes: of how many nodes they are.
        on_hold: host names or ids of nodes whose files are set aside as they arrive, or were until
            now.
        stayed: some of the files that were not moved.
    """

    action: Action
    trial: bool
    counts: dict[Outcome, int]
    nodes: int
    on_hold: list[str]
    stayed: list[Stayed]

    @property
    def files(self) -> int:
        """How many files were done."""
        return sum(number for outcome, number in self.counts.items() if outcome in SUCCESS)

    @property
    def is_complete(self) -> bool:
        """Whether all files that were meant are done."""
        return all(outcome in SUCCESS for outcome in self.counts)


def report(
    action: Action, results: Iterable[Done], on_hold: Iterable[str], *, trial: bool
) -> Report:
    """Sum up what became of files."""
    counts: Counter[Outcome] = Counter()
    nodes: set[str] = set()
    stayed: list[Stayed] = []
    for done in results:
        counts[done.outcome] += 1
        nodes.add(done.entry.node_id)
        if not done.moved and len(stayed) < NAMED:
            stayed.append(Stayed(done.entry.shown, done.outcome, shown(done.detail)))
    return Report(action, trial, dict(counts), len(nodes - {""}), sorted(on_hold), stayed)


def view(entry: Entry, parent: str, hostname: str, attempt: Attempt | None, now: float) -> FileView:
    """Return what is shown of a file.

    Args:
        entry: the file.
        parent: the directory in which it lies.
        hostname: of its node.
        attempt: what a running relayd knows of it.
        now: Unix time.
    """
    name = entry.shown
    return FileView(
        file=f"{parent}/{name}",
        name=name,
        node=shown(entry.node_id),
        hostname=hostname,
        state=_state(entry, attempt),
        dated_at=in_utc(entry.dated),
        age_seconds=round(now - entry.dated, 3),
        attempts=attempt.attempts or None if attempt is not None else None,
        due_seconds=attempt.due_seconds if attempt is not None else None,
    )


def detailed(entry: Entry, seen: FileView) -> FileView:
    """Add what only the file itself says."""
    with suppress(OSError):
        status = os.lstat(entry.path)
        return msgspec.structs.replace(
            seen, arrived_at=in_utc(status.st_mtime), bytes=status.st_size
        )
    return seen


def _state(entry: Entry, attempt: Attempt | None) -> FileState:
    if entry.layer:
        return "held"
    if attempt is None:
        return "waiting"
    return "in_flight" if attempt.in_flight else "retry"
