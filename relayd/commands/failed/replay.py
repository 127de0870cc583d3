"""Moving refused files back: what would pass now goes, the rest stays."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from relayd.commands.failed.refusals import Refusal
from relayd.commands.inspect.verdict import explain
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.runlog.model import RunLog
from relayd.spool.failed.quarantine import move_back, remove
from relayd.spool.layout import INCOMING

#: Gives the verdict that a file would get now.
Judge = Callable[[Refusal], RunLog | Refused | Retry | Gone]

#: "back": moved back; "refused": would be refused again, and stays; "taken": the spool has another
#: file of this name; "gone": somebody else has moved or removed it; "removed": by `drop`;
#: "error": the system does not allow it.
Outcome = Literal["back", "refused", "taken", "gone", "removed", "error"]


class Done(msgspec.Struct, frozen=True):
    """What became of a file.

    Attributes:
        refusal: the file.
        outcome: see `Outcome`.
        reason: why it would be refused again; "" for other outcomes.
        detail: one line; may be empty.
    """

    refusal: Refusal
    outcome: Outcome
    reason: str = ""
    detail: str = ""


def replay(
    refusals: Iterable[Refusal], judge: Judge | None, *, trial: bool = False
) -> Iterator[Done]:
    """Move files back, one after the other.

    Args:
        refusals: the files.
        judge: gives the verdict on a run log; None where run logs are forwarded unread.
        trial: whether to say only what would be done.
    """
    for refusal in refusals:
        verdict = judge(refusal) if judge is not None and _is_judged(refusal) else None
        if isinstance(verdict, Refused):
            yield Done(refusal, "refused", verdict.reason.value, verdict.detail)
        elif isinstance(verdict, Gone):
            yield Done(refusal, "gone")
        elif isinstance(verdict, Retry):
            yield Done(refusal, "error", detail=explain(verdict))
        else:
            yield Done(refusal, "back") if trial else _move_back(refusal)


def _is_judged(refusal: Refusal) -> bool:
    """Return whether a file is a run log that was refused for what it contains."""
    return refusal.spool.ordered and refusal.reason != Reason.DATABASE


def _move_back(refusal: Refusal) -> Done:
    # An inventory of an accepted node does as well among those of new nodes.
    target = refusal.spool.directory / INCOMING / refusal.name
    try:
        if refusal.reason == Reason.EXPIRED:
            os.utime(refusal.path, follow_symlinks=False)  # its time begins again
        move_back(refusal.path, target)
    except FileExistsError:
        return Done(refusal, "taken", detail=f"{target} exists")
    except FileNotFoundError:
        return Done(refusal, "gone")
    except OSError as error:
        return Done(refusal, "error", detail=f"cannot be moved: {error.strerror}")
    return Done(refusal, "back")


def drop(refusals: Iterable[Refusal]) -> Iterator[Done]:
    """Remove files and their reasons, one after the other."""
    for refusal in refusals:
        try:
            remove(refusal.path)
        except FileNotFoundError:
            yield Done(refusal, "gone")
        except OSError as error:
            yield Done(refusal, "error", detail=f"cannot be removed: {error.strerror}")
        else:
            yield Done(refusal, "removed")
