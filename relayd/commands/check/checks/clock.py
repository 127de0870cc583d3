"""The clock: run logs carry times of many machines, and spool files are judged by their age."""

import ctypes
import time
from datetime import UTC, datetime
from typing import Final

from relayd.commands.check.model import Finding, Site, error, skipped, warning

#: Seconds that clocks may differ without harm.
TOLERABLE_S: Final = 5.0
#: Seconds from which on files are taken for old, or for new, that are not.
HARMFUL_S: Final = 300.0

#: No clock of a machine that runs this release says less; the other end is a typing error.
FIRST_YEAR: Final = 2025
LAST_YEAR: Final = 2100

#: adjtimex(2): state of a clock that nothing keeps right.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512

_MEND: Final = "let NTP keep both clocks right (chronyd, systemd-timesyncd)"


async def check(site: Site) -> list[Finding]:
    """Check this clock; begins when the others' clocks are known, if anybody could be asked."""
    now = datetime.now(UTC)
    year = judge_year(now.year)
    if year is not None:
        return [year]
    found = [finding for who, ahead in site.clocks.items() for finding in judge(who, ahead)]
    return found or ([] if site.clocks else judge_synchronised(kernel_state()))


def judge_year(year: int) -> Finding | None:
    """Tell whether a year cannot be."""
    if FIRST_YEAR <= year <= LAST_YEAR:
        return None
    return error("clock.year", "this machine", f"its clock says that it is {year}", _MEND)


def judge(who: str, ahead: float) -> list[Finding]:
    """Tell what it means that somebody's clock is `ahead` seconds ahead of this one."""
    if abs(ahead) <= TOLERABLE_S:
        return []
    word = "ahead of" if ahead > 0 else "behind"
    what = f"its clock is {abs(ahead):.0f} s {word} this one"
    make = error if abs(ahead) > HARMFUL_S else warning
    return [make("clock.differs", who, what, _MEND)]


def kernel_state() -> int | None:
    """Ask the kernel what it thinks of its clock (adjtimex(2)); None where it does not tell."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = int(ctypes.CDLL(None).adjtimex(buffer))
    return state if state >= 0 else None


def judge_synchronised(state: int | None) -> list[Finding]:
    """Tell what the kernel's state of its clock means where there is no other clock."""
    if state is None:
        what = "nobody's clock to compare with, and the kernel does not tell"
        return [skipped("clock.unknown", "this machine", what, "compare it by hand: date")]
    if state != _TIME_ERROR:
        return []
    what = "nothing keeps its clock right, and there was nobody's to compare with"
    mend = "run chronyd or systemd-timesyncd; timedatectl tells the state"
    return [warning("clock.unsynchronised", "this machine", what, mend)]


def seconds_ahead(theirs: float, before: float) -> float:
    """Return how far another clock is ahead, from what it said to a question.

    Args:
        theirs: what it said, unix time in seconds.
        before: this clock when the question was asked; it is now when the answer is there.
    """
    after = time.time()
    return theirs - min(max(theirs, before), after)
