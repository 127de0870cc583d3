"""Moving refused files back: what would pass now goes, the rest stays."""

from collections.abc import Callable, Iterable, Iterator

from relayd.commands.inspect.verdict import explain
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.runlog.model import RunLog
from relayd.spool.failed.refusals import Refusal
from relayd.spool.failed.returning import Done

#: Gives the verdict that a file would get now.
Judge = Callable[[Refusal], RunLog | Refused | Retry | Gone]


def examine(refusals: Iterable[Refusal], judge: Judge | None) -> Iterator[Done]:
    """Yield for each file whether it would pass now: "back", or why it would not.

    Args:
        refusals: the files.
        judge: gives the verdict on a run log; None where run logs are forwarded unread.
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
            yield Done(refusal, "back")


def _is_judged(refusal: Refusal) -> bool:
    """Return whether a file is a run log that was refused for what it contains."""
    return refusal.spool.ordered and refusal.reason != Reason.DATABASE
