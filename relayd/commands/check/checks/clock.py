"""The clock: run logs carry times of many machines, and spool files expire by age."""

import ctypes
import time
from datetime import UTC, datetime
from typing import Final

from relayd.commands.check.model import Finding, Site, error, skipped, warning

#: Seconds by which clocks may differ without harm.
TOLERABLE_S: Final = 5.0
#: Seconds beyond which the age of files is misjudged.
HARMFUL_S: Final = 300.0

#: A clock before the year of this release is wrong; one after the last year is a typing error.
FIRST_YEAR: Final = 2025
LAST_YEAR: Final = 2100

#: adjtimex(2): state of a clock that is not synchronized.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512

_FIX: Final = "synchronize both clocks with NTP (chronyd, systemd-timesyncd)"


async def check(site: Site) -> list[Finding]:
    """Check this clock, against those of other machines if any is known."""
    now = datetime.now(UTC)
    year = judge_year(now.year)
    if year is not None:
        return [year]
    found = [finding for who, ahead in site.clocks.items() for finding in judge(who, ahead)]
    return found or ([] if site.clocks else judge_synchronised(kernel_state()))


def judge_year(year: int) -> Finding | None:
    """Return a finding if the year is impossible."""
    if FIRST_YEAR <= year <= LAST_YEAR:
        return None
    return error("clock.year", "this machine", f"its clock shows the year {year}", _FIX)


def judge(who: str, ahead: float) -> list[Finding]:
    """Judge a clock of another machine that is `ahead` seconds ahead of this one."""
    if abs(ahead) <= TOLERABLE_S:
        return []
    word = "ahead of" if ahead > 0 else "behind"
    what = f"its clock is {abs(ahead):.0f} s {word} this one"
    make = error if abs(ahead) > HARMFUL_S else warning
    return [make("clock.differs", who, what, _FIX)]


def kernel_state() -> int | None:
    """Return the kernel's state of the clock (adjtimex(2)), None when it is unavailable."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = int(ctypes.CDLL(None).adjtimex(buffer))
    return state if state >= 0 else None


def judge_synchronised(state: int | None) -> list[Finding]:
    """Judge the kernel's state of the clock, where no other clock is known."""
    if state is None:
        what = "no other clock to compare with, and the kernel does not report the state of its own"
        return [skipped("clock.unknown", "this machine", what, "compare it by hand: date")]
    if state != _TIME_ERROR:
        return []
    what = "its clock is not synchronized, and there is no other clock to compare with"
    fix = "run chronyd or systemd-timesyncd; timedatectl shows the state"
    return [warning("clock.unsynchronised", "this machine", what, fix)]


def seconds_ahead(theirs: float, before: float) -> float:
    """Return by how many seconds another clock is ahead; to be called once it has answered.

    Args:
        theirs: the time it answered, unix time in seconds.
        before: time of this clock when it was asked.
    """
    after = time.time()
    return theirs - min(max(theirs, before), after)
