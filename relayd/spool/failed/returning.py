"""Moving refused files back to the spool, or removing them, one after the other."""

import os
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from relayd.errors import Reason
from relayd.spool.failed.quarantine import move_back, remove
from relayd.spool.failed.refusals import Refusal
from relayd.spool.layout import INCOMING
from relayd.system.printable import shown
from relayd.system.shortage import words_of

#: "back": moved back; "refused": would be refused again, and stays; "taken": the spool has another
#: file of this name; "gone": somebody else has moved or removed it; "removed": by `drop`;
#: "error": the system does not allow it.
Outcome = Literal["back", "refused", "taken", "gone", "removed", "error"]


#: Outcomes after which nothing is left to do.
SUCCESS: Final = frozenset({"back", "removed", "gone"})


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


def bring_back(refusal: Refusal) -> Done:
    """Move a file back under the name of its upload; its reason is removed."""
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
        return Done(refusal, "error", detail=f"cannot be moved: {words_of(error)}")
    return Done(refusal, "back")


def drop(refusals: Iterable[Refusal]) -> Iterator[Done]:
    """Remove files and their reasons, one after the other."""
    for refusal in refusals:
        try:
            remove(refusal.path)
        except FileNotFoundError:
            yield Done(refusal, "gone")
        except OSError as error:
            yield Done(refusal, "error", detail=f"cannot be removed: {words_of(error)}")
        else:
            yield Done(refusal, "removed")


class Returned(msgspec.Struct, frozen=True):
    """What became of a file, for those who asked for it by its path.

    Attributes:
        file: its path.
        outcome: see `Outcome`.
        detail: one line; may be empty.
    """

    file: str
    outcome: Outcome
    detail: str = ""


def as_returned(done: Done) -> Returned:
    """Return what became of a file, by its path as text."""
    return Returned(shown(str(done.refusal.path)), done.outcome, done.detail)
