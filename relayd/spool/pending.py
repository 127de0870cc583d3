"""The table of spool files that are in flight or wait for a retry.

Every name that enters the pipeline is claimed here first, so a file that is both announced by the
kernel and found by a listing is processed once. All methods must be called from the Trio thread,
except that `in` may be used in any thread.
"""

import heapq
import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf
from typing import Final

import trio

from relayd.spool.holds import HOLD_S, Holds
from relayd.spool.shares import Shares
from relayd.system.delays import DELAYS, Doubling
from relayd.system.wake import Wake

#: Names that may wait at once, about 300 bytes each. Further files stay in the spool and are found
#: by a later listing.
REMEMBERED: Final = 10_000


def _do_nothing() -> None:
    """Stand for a pipeline that waits for no output."""


class Pending:
    """The names in flight and the names that wait for another attempt.

    Attributes:
        remembered: maximum number of waiting names.
        wake: set when the next due time may have become earlier, and by the watcher when it has
            found other names.
        holds: the run logs that newer ones of their node wait for.
        shares: what each node has in flight.
        known: names of files that are in the directory as far as is known, each with its time of
            modification or arrival (Unix seconds); those that wait in the watcher are among them.
        returned: names that were put back to be sent again in their order; emptied by the watcher.
        recalled: names in flight that an operator waits for; the pipeline hands them over instead
            of putting them back.
        on_recall: called when some are recalled: a stage that waits for its output lets go.

    Args:
        delays: between attempts with the same file.
        remembered: maximum number of waiting names.
        one_by_one: whether run logs of one node are in flight one after the other.
        shares: what each node may have in flight; any number of files if it is not given.
        jitter: randomness for the delays; a seeded one makes them repeatable.
    """

    def __init__(
        self,
        delays: Doubling = DELAYS.file,
        *,
        remembered: int = REMEMBERED,
        one_by_one: bool = False,
        shares: Shares | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._delays = delays
        self.remembered = remembered
        self._one_by_one = one_by_one
        self.wake = Wake()
        self.holds = Holds()
        self.shares = shares or Shares(files=1 if one_by_one else inf)
        #: Names that must not be tried before they are due.
        self._asked: set[str] = set()
        #: Names in flight that were tried while the output was away.
        self._away: set[str] = set()
        self.known: dict[str, float] = {}
        self.returned: list[str] = []
        self.recalled: set[str] = set()
        self.on_recall: Callable[[], None] = _do_nothing
        self._handed_over: list[str] = []
        self._recall_went_on = Wake()
        self._spilled = False
        self._jitter = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._in_flight: dict[str, bool] = {}
        self._attempts: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = count()

    def __contains__(self, name: object) -> bool:
        """Return whether a name is in flight or waiting: a listing leaves these out."""
        return name in self._in_flight or name in self._due

    @property
    def in_flight(self) -> int:
        """Number of names claimed and not yet released or put back."""
        return len(self._in_flight)

    @property
    def capacity(self) -> int:
        """Number of further names that could be remembered if all of them had to be retried."""
        return max(0, self.remembered - len(self._due) - len(self._in_flight))

    def is_in_flight(self, name: str) -> bool:
        """Return whether a name is claimed and not yet released or put back."""
        return name in self._in_flight

    def has_failed(self, name: str) -> bool:
        """Return whether an attempt with a name failed, and none succeeded since."""
        return name in self._attempts

    def claim(self, name: str) -> bool:
        """Take a name into flight.

        Returns:
            False if it is already in flight. It is then marked as changed, and becomes due again
            as soon as it is released.
        """
        if name in self._in_flight:
            self._in_flight[name] = True
            return False

        self._in_flight[name] = False
        self._due.pop(name, None)
        self.note(name)
        self.shares.take(name)
        if not self._one_by_one and name not in self.holds.kept:
            self.holds.lift(name)
        return True

    def take_over(self, names: Iterable[str]) -> list[str]:
        """Claim those names for an operator that are not in flight, and return them.

        Newer run logs of their nodes wait until these are given back.
        """
        return self._hold_up(
            [name for name in names if name not in self._in_flight and self.claim(name)]
        )

    def _hold_up(self, taken: list[str]) -> list[str]:
        """Let newer run logs wait for those that an operator has."""
        for name in taken:
            self.holds.add(name)
        return taken

    async def recall(self, names: Sequence[str], seconds: float) -> list[str]:
        """Claim names for an operator, those in flight as soon as the pipeline lets go of them.

        Names that leave the directory meanwhile are claimed as well, so that the operator finds
        out. One call at a time.

        Args:
            names: wanted names.
            seconds: how long to wait for those in flight.

        Returns:
            The names that are claimed now; none is if this is cancelled.
        """
        ours = self.take_over(names)
        claimed = frozenset(ours)
        self.recalled = {name for name in names if name not in claimed}
        if not self.recalled:
            return ours
        self.on_recall()
        try:
            with trio.move_on_after(seconds):
                while self.recalled:
                    await self._recall_went_on.wait()
        except BaseException:
            self.give_back((), ours + self._end_recall())
            raise
        ours += self._hold_up(self._end_recall())
        claimed = frozenset(ours)
        return ours + self.take_over([name for name in names if name not in claimed])

    def _end_recall(self) -> list[str]:
        """Want no further names; return those that were handed over."""
        handed_over, self._handed_over = self._handed_over, []
        self.recalled.clear()
        return handed_over

    def _hands_over(self, name: str) -> bool:
        """Leave a name claimed for the operator who waits for it; return whether one does."""
        if name not in self.recalled:
            return False
        self._stop_waiting_for(name)
        self._away.discard(name)
        self._handed_over.append(name)
        return True

    def _stop_waiting_for(self, name: str) -> None:
        self.recalled.discard(name)
        if not self.recalled:
            self._recall_went_on.set()

    def give_back(self, left: Iterable[str], stay: Iterable[str]) -> None:
        """Give up names that an operator has claimed.

        Args:
            left: files that have left the directory.
            stay: the others; they are sent in their order.
        """
        for name in left:
            self.release(name)
        for name in stay:
            self.put_back(name)
            if self.has_failed(name):
                self.holds.lift(name)
            else:
                self.holds.forget(name)

    def hurry(self, names: Iterable[str]) -> list[str]:
        """Make those names due that wait for another attempt, and return them."""
        now = trio.current_time()
        due = [name for name in names if name in self._due]
        for name in due:
            self._wait_until(name, now)
        return due

    def attempts(self) -> dict[str, tuple[bool, int, float]]:
        """Return the names in flight or waiting.

        Each has whether it is in flight, its failed attempts, and seconds until it is due.
        """
        now = trio.current_time()
        found = {name: (True, self._attempts.get(name, 0), 0.0) for name in self._in_flight}
        for name, due in self._due.items():
            found[name] = False, self._attempts.get(name, 0), max(0.0, due - now)
        return found

    def let_follow(self, name: str) -> None:
        """Let newer run logs of its node follow a file in flight that has done its way."""
        self.holds.lift(name)
        self.shares.give_back(name)
        self.wake.set()

    def note_output(self, *, away: bool) -> None:
        """Note whether the output is away: until it is back, each node's run logs stay in order."""
        if away and not self.holds.outage:
            self.holds.begin_outage()
        elif not away and self.holds.outage:
            self.hurry(self.holds.end_outage() - self._asked)
            self.wake.set()

    def note_attempt(self, name: str) -> None:
        """Note that an attempt with a file in flight has failed, before it is put back."""
        if self.holds.outage:
            self._away.add(name)

    def note(self, name: str, since: float | None = None) -> None:
        """Note that a file is there, and since when (Unix seconds); now if this is not known."""
        if since is not None:
            self.known[name] = since
        elif name not in self.known:
            self.known[name] = time.time()

    def put_back(self, name: str) -> None:
        """Put back a file that was taken up too early: it is sent again, in its order."""
        if self._hands_over(name):
            return
        self._leave(name)
        self.returned.append(name)
        self.wake.set()

    def release(self, name: str) -> None:
        """Release a file that was committed, refused or has vanished; forget its attempts."""
        if name in self.recalled:
            self._stop_waiting_for(name)
        changed = self._leave(name)
        self._attempts.pop(name, None)
        self._asked.discard(name)
        self.holds.forget(name)
        self.known.pop(name, None)
        if changed:
            self.note(name)
            self._wait_until(name, trio.current_time())
        elif self.holds.freed or self.shares.freed:
            self.wake.set()

    def _leave(self, name: str) -> bool:
        """Take a name out of flight; return whether its file changed meanwhile."""
        self._away.discard(name)
        self.shares.give_back(name)
        return self._in_flight.pop(name)

    def retry(self, name: str, *, floor: float = 0.0, alone: bool = False) -> None:
        """Put back a file that cannot be processed at the moment; it is due again later.

        The delay doubles with each attempt from 1 s to 10 min and varies by up to a quarter, so
        that files that failed together are not retried together. A file that changed while it was
        in flight starts with the first delay again.

        Args:
            name: a claimed name.
            floor: minimum delay in seconds.
            alone: whether the cause is in this file alone, so that no other one waits for it.
        """
        if self._hands_over(name):
            return
        back = name in self._away and not self.holds.outage
        if self._leave(name):
            self._attempts.pop(name, None)
        if name not in self._attempts and len(self._due) >= self.remembered:
            self._spill(name)
            return
        if alone:
            self.holds.forget(name)
        else:
            self.holds.add(name)
        if floor:
            self._asked.add(name)
        else:
            self._asked.discard(name)
        tried = self._attempts.get(name, 0)
        self._attempts[name] = tried + 1
        spread = self._delays.after(1 if back else tried + 1) * self._jitter.uniform(0.75, 1.25)
        # All newer ones of its node wait as well while the output is away.
        longest = min(self._delays.longest, HOLD_S if self.holds.outage else inf)
        delay = max(min(spread, longest), floor)
        self._wait_until(name, trio.current_time() + delay)

    def wait(self, name: str, seconds: float) -> None:
        """Put back a file that has to wait for another one; this does not count as an attempt.

        Args:
            name: a claimed name; if it changed while it was in flight, it is due at once.
            seconds: delay until it is due again; `claim` ends it early.
        """
        if self._hands_over(name):
            return
        delay = 0.0 if self._leave(name) else seconds
        if len(self._due) >= self.remembered:
            self._spill(name)
        else:
            self._wait_until(name, trio.current_time() + delay)

    def _spill(self, name: str) -> None:
        self._spilled = True
        self._asked.discard(name)
        self.holds.forget(name)
        self.known.pop(name, None)
        self.wake.set()

    def forget_waiting(self) -> None:
        """Forget all waiting names and their delays; the caller lists the directory instead."""
        for name in self._due:
            self.known.pop(name, None)
        self._due.clear()
        self._heap.clear()
        self._asked.clear()
        self.holds.clear()
        self._attempts = {n: a for n, a in self._attempts.items() if n in self._in_flight}

    def take_spilled(self) -> bool:
        """Return whether names were not remembered since the last call, and need a listing."""
        spilled, self._spilled = self._spilled, False
        return spilled

    def take_due(self, limit: int) -> list[str]:
        """Take at most `limit` names that are due, the longest overdue first."""
        now = trio.current_time()
        names: list[str] = []
        while len(names) < limit and self.next_due() <= now:
            name = heapq.heappop(self._heap)[2]
            del self._due[name]
            names.append(name)
        return names

    def next_due(self) -> float:
        """Return the Trio time at which the next waiting name is due; infinity if there is none."""
        while self._heap:
            when, _, name = self._heap[0]
            if self._due.get(name) == when:
                return when
            heapq.heappop(self._heap)
        return float("inf")

    def _wait_until(self, name: str, when: float) -> None:
        self._due[name] = when
        heapq.heappush(self._heap, (when, next(self._order), name))
        # Names that were claimed before they were due leave stale entries behind.
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(t, next(self._order), n) for n, t in self._due.items()]
            heapq.heapify(self._heap)
        self.wake.set()
