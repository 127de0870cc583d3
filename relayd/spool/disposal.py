"""The only code that removes or moves spool files.

The functions block and are meant for one thread call for a whole batch; `Disposal` makes that
call and remembers what could not be removed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import trio

from relayd.errors import Retry
from relayd.spool.committed import Committed, WalPoint
from relayd.spool.failed.quarantine import (
    Moved,
    RefusedFile,
    quarantine,
    quarantine_all,
    requeue,
)
from relayd.spool.failed.reasons import ReasonRecord
from relayd.spool.identity import Identity, identity
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread

__all__ = [
    "Disposal",
    "Identity",
    "ReasonRecord",
    "RefusedFile",
    "Removal",
    "identity",
    "quarantine",
    "remove",
    "requeue",
]

Removal = Literal["removed", "changed", "gone"]
T = TypeVar("T")
#: Moves committed files to where they are kept for a while: name, identity, and where each was
#: committed. Returns for each what was found, or why it cannot be moved now.
Keep = Callable[[Sequence[tuple[str, Identity, WalPoint | None]]], list[Removal | OSError]]


def remove(directory: str | Path, name: str, known: Identity) -> Removal:
    """Remove a file whose rows are committed, or that the upstream has.

    The kernel cannot unlink a file on the condition that it is a certain one, so a newer file that
    takes the name between two adjacent system calls (microseconds) would be lost.

    Args:
        directory: the watched directory.
        name: base name.
        known: identity of what was read.

    Returns:
        "removed"; "changed" when the name holds a newer file, which stays; "gone" when nothing
        has this name.

    Raises:
        OSError: the file cannot be removed now (EACCES, EROFS, EIO, …); it still exists.
    """
    path = f"{directory}/{name}"
    try:
        if identity(os.lstat(path)) != known:
            return "changed"
        os.unlink(path)  # noqa: PTH108  a path object for each file costs more than this call
    except FileNotFoundError:
        return "gone"
    return "removed"


class Disposal:
    """Disposes of batches of files of one watched directory, one batch at a time in a thread.

    A thread call that has begun runs to its end, also when it is cancelled, so no file is left
    half moved.

    Args:
        incoming: the watched directory.
        failed: where refused files go.
        keep: keeps committed files; None if they are removed at once.

    Attributes:
        committed: files that are done but could not be removed. The pipeline asks `holds` before
            it processes a file and, if so, only calls `remove` again.
    """

    def __init__(self, incoming: Path, failed: Path, keep: Keep | None = None) -> None:
        self.committed = Committed()
        self._keep = keep
        self._incoming = incoming
        self._failed = failed
        self._limiter = trio.CapacityLimiter(1)

    async def remove(
        self, files: Sequence[tuple[str, Identity]], points: Sequence[WalPoint | None] = ()
    ) -> list[Removal | Retry]:
        """Remove committed files, see the function `remove`, or keep them for a while.

        Args:
            files: name, and identity of what was read.
            points: where each was committed; needed only if they are kept.

        Returns:
            For each file what was found, or `Retry` when it could not be removed. Such a file is
            remembered as committed.
        """
        if self._keep is not None:
            keep = partial(
                self._keep, [(*file, at) for file, at in zip(files, points, strict=True)]
            )
            moved = await in_thread(keep, limiter=self._limiter)
            results = [_later(r) if isinstance(r, OSError) else r for r in moved]
        else:
            results = await self._in_thread(
                [partial(remove, str(self._incoming), name, known) for name, known in files]
            )
        for (name, known), result in zip(files, results, strict=True):
            if isinstance(result, Retry):
                self.committed.remember(name, known, result.detail)
            else:
                self.committed.forget(name)
        return results

    async def quarantine(self, files: Sequence[RefusedFile]) -> list[Moved | Retry]:
        """Move refused files to `failed`, see the function `quarantine_all`.

        Returns:
            For each file where it is now or what was found, or `Retry` when it could not be
            moved and is still in the spool.
        """
        move = partial(quarantine_all, self._incoming, self._failed, files)
        results = await in_thread(move, limiter=self._limiter)
        return [_later(r) if isinstance(r, OSError) else r for r in results]

    async def requeue(self, wanted: Callable[[ReasonRecord], bool]) -> int:
        """Move refused files back, see the function `requeue`; `wanted` runs in a thread."""
        move = partial(requeue, self._failed, self._incoming, wanted)
        return await in_thread(move, limiter=self._limiter)

    async def _in_thread(self, actions: Sequence[Callable[[], T]]) -> list[T | Retry]:
        return await in_thread(lambda: list(_attempts(actions)), limiter=self._limiter)


def _attempts(actions: Sequence[Callable[[], T]]) -> Iterator[T | Retry]:
    """Yield each result, or why the world is not ready: one file does not hold up the others."""
    for action in actions:
        try:
            yield action()
        except OSError as error:
            yield _later(error)


def _later(error: OSError) -> Retry:
    place = f" ({error.filename})" if error.filename else ""
    return Retry(f"{words_of(error)}{place}")
