"""Setting files aside, bringing them back, dropping them: each one by a single system call.

A crash leaves every file where it was or where it belongs. Nothing is ever replaced.
"""

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from relayd.spool.failed.moving import move_noreplace
from relayd.spool.layout import make_beside
from relayd.spool.operations.entries import Entry, layer_name
from relayd.system.shortage import words_of

#: Files that are claimed at once: the event loop is asked so often.
BATCH: Final = 256
#: Files of one name that may be set aside.
_LAYERS: Final = 1000

#: Held while files of nodes on hold are set aside, and while that is changed for a node.
MOVING: Final = threading.Lock()

#: "held": set aside; "released": brought back; "dropped": removed; "retried": tried
#: now; "busy": relayd works on it;
#: "taken": another file of its name waits; "gone": somebody else was faster; "error": the system
#: does not allow it.
Outcome = Literal["held", "released", "dropped", "retried", "busy", "taken", "gone", "error"]
#: Outcomes after which nothing is left to do.
SUCCESS: Final = frozenset({"held", "released", "dropped", "retried", "gone"})


class Done(msgspec.Struct, frozen=True, gc=False):
    """What became of a file.

    Attributes:
        entry: the file, as it was before.
        outcome: see `Outcome`.
        detail: one line; may be empty.
    """

    entry: Entry
    outcome: Outcome
    detail: str = ""

    @property
    def moved(self) -> bool:
        """Whether the file is no longer where it was."""
        return self.outcome in SUCCESS


class Claims(Protocol):
    """Keeps relayd from files that are being moved; see `relayd.spool.pending`."""

    def claim(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Return those of the names that relayd does not work on, and will not until `settle`."""

    def recall(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Return as `claim`, and also names that relayd lets go of within some time."""

    def settle(self, directory: Path, left: Collection[str], stay: Collection[str]) -> None:
        """Give claimed names back: files that have left the directory, and files that have not."""


class NoClaims:
    """For a spool of which this process has the lock: nobody else works on it."""

    def claim(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Return all names."""
        return names

    def recall(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Return all names."""
        return names

    def settle(self, directory: Path, left: Collection[str], stay: Collection[str]) -> None:
        """Do nothing."""


def hold(entries: Sequence[Entry], claims: Claims) -> Iterator[Done]:
    """Set waiting files aside."""
    return _claimed(entries, claims, hold_one)


def drop(entries: Sequence[Entry], claims: Claims) -> Iterator[Done]:
    """Remove files for good, those that wait and those that were set aside."""
    yield from _claimed([entry for entry in entries if not entry.layer], claims, _drop_one)
    yield from map(_drop_one, (entry for entry in entries if entry.layer))


def release(entries: Sequence[Entry]) -> Iterator[Done]:
    """Bring files back that were set aside, in the given order.

    Their time begins again, or those that waited for long would be given up at once.
    """
    return map(_release_one, entries)


def _claimed(
    entries: Sequence[Entry], claims: Claims, act: Callable[[Entry], Done]
) -> Iterator[Done]:
    for directory, some in groupby(entries, key=lambda entry: entry.incoming):
        while batch := list(islice(some, BATCH)):
            ours = frozenset(claims.recall(directory, [entry.name for entry in batch]))
            left: list[str] = []
            done: list[Done] = []
            try:
                for entry in batch:
                    if entry.name not in ours:
                        done.append(Done(entry, "busy"))
                        continue
                    done.append(act(entry))
                    if done[-1].moved:
                        left.append(entry.name)
            finally:
                claims.settle(directory, left, ours - set(left))
            yield from done


def would(entries: Sequence[Entry], claims: Claims, outcome: Outcome) -> Iterator[Done]:
    """Say what would become of files; those that are set aside already are never busy."""
    waiting = [entry for entry in entries if not entry.layer]
    for directory, some in groupby(waiting, key=lambda entry: entry.incoming):
        while batch := list(islice(some, BATCH)):
            free = frozenset(claims.claim(directory, [entry.name for entry in batch]))
            claims.settle(directory, (), free)
            yield from (Done(one, outcome if one.name in free else "busy") for one in batch)
    yield from (Done(entry, outcome) for entry in entries if entry.layer)


def hold_one(entry: Entry) -> Done:
    """Set a waiting file aside; it must be claimed."""
    try:
        for number in range(_LAYERS):
            with suppress(FileExistsError):
                _move_to(entry, layer_name(entry.place, number))
                return Done(entry, "held")
    except FileNotFoundError:
        return Done(entry, "gone")
    except OSError as error:
        return Done(entry, "error", f"cannot be moved: {words_of(error)}")
    return Done(entry, "taken", f"{_LAYERS} files of this name were set aside")


def _move_to(entry: Entry, layer: str) -> None:
    target = msgspec.structs.replace(entry, layer=layer)
    try:
        move_noreplace(entry.path, target.path)
    except FileNotFoundError:
        directory = Path(target.parent)
        if directory.is_dir() or not os.path.lexists(entry.path):
            raise
        make_beside(directory.parent, entry.incoming)
        make_beside(directory, entry.incoming)
        move_noreplace(entry.path, target.path)


def _release_one(entry: Entry) -> Done:
    target = msgspec.structs.replace(entry, layer="").path
    try:
        # Only an owner may do this; a file of another user keeps its time.
        with suppress(PermissionError):
            os.utime(entry.path, follow_symlinks=False)
        move_noreplace(entry.path, target)
    except FileExistsError:
        return Done(entry, "taken", f"{target} exists")
    except FileNotFoundError:
        if not os.path.lexists(entry.path):
            return Done(entry, "gone")
        return Done(entry, "error", f"{entry.incoming} does not exist")
    except OSError as error:
        return Done(entry, "error", f"cannot be moved: {words_of(error)}")
    return Done(entry, "released")


def _drop_one(entry: Entry) -> Done:
    try:
        os.unlink(entry.path)  # noqa: PTH108
    except FileNotFoundError:
        return Done(entry, "gone")
    except OSError as error:
        return Done(entry, "error", f"cannot be removed: {words_of(error)}")
    return Done(entry, "dropped")
