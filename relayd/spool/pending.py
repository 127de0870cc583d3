"""Which spool files are in flight, and which must be looked at again, and when.

Every name that enters the pipeline is claimed here first, so a file that is announced by the
kernel and found by a listing is worked on once. All methods belong to the Trio thread, only
`in` may be asked from others.
"""

import heapq
import random
from itertools import count
from typing import Final

import trio

from relayd.system.delays import DELAYS, Doubling
from relayd.system.wake import Wake

#: Names that may wait at once, about 300 bytes each. Those beyond it stay in the spool and are
#: found by a later listing.
REMEMBERED: Final = 10_000


class Pending:
    """The names in flight and the names that wait for another attempt.

    Attributes:
        remembered: how many names may wait at most.
        news: rung when the next due time may have become an earlier one, and by the one that
            feeds the pipeline with what else there is.

    Args:
        delays: between attempts with the same file.
        remembered: how many names may wait at most.
        jitter: source of the spread of delays; one with a seed makes them repeatable.
    """

    def __init__(
        self,
        delays: Doubling = DELAYS.file,
        *,
        remembered: int = REMEMBERED,
        jitter: random.Random | None = None,
    ) -> None:
        self._delays = delays
        self.remembered = remembered
        self.news = Wake()
        self._spilled = False
        self._jitter = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._in_flight: dict[str, bool] = {}
        self._attempts: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = count()
        self._idle = trio.Event()
        self._idle.set()

    def __contains__(self, name: object) -> bool:
        """Whether a name is in flight or waits for its time: a listing leaves these out."""
        return name in self._in_flight or name in self._due

    @property
    def in_flight(self) -> int:
        """Number of names claimed and not yet released or put back."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Number of names that wait for another attempt."""
        return len(self._due)

    @property
    def room(self) -> int:
        """How many more names could fail for a while and still be remembered."""
        return max(0, self.remembered - len(self._due) - len(self._in_flight))

    def is_in_flight(self, name: str) -> bool:
        """Return whether a name is claimed and not yet released or put back."""
        return name in self._in_flight

    def attempts(self, name: str) -> int:
        """Return how often this name failed for a while since it was last released."""
        return self._attempts.get(name, 0)

    def claim(self, name: str) -> bool:
        """Take a name into flight.

        Returns:
            False when it is in flight already. Then it is remembered that it changed: it becomes
            due again as soon as it is released.
        """
        if name in self._in_flight:
            self._in_flight[name] = True
            return False
        if not self._in_flight:
            self._idle = trio.Event()
        self._in_flight[name] = False
        self._due.pop(name, None)
        return True

    def release(self, name: str) -> None:
        """The file was committed, refused or has vanished; its attempts are forgotten."""
        changed = self._land(name)
        self._attempts.pop(name, None)
        if changed:
            self._wait_until(name, trio.current_time())

    def retry(self, name: str, *, floor: float = 0.0) -> None:
        """The world was not ready: the file stays in the spool and is due again later.

        The delay doubles with each attempt from 1 s to 10 min and is spread by a quarter, so
        that files which failed together do not return together. A file that changed while it was
        in flight begins with the first delay again.

        Args:
            name: a claimed name.
            floor: seconds that must pass at least.
        """
        if self._land(name):
            self._attempts.pop(name, None)
        if name not in self._attempts and len(self._due) >= self.remembered:
            self._spilled = True
            return
        tried = self._attempts.get(name, 0)
        self._attempts[name] = tried + 1
        spread = self._delays.after(tried + 1) * self._jitter.uniform(0.75, 1.25)
        delay = max(min(spread, self._delays.longest), floor)
        self._wait_until(name, trio.current_time() + delay)

    def wait(self, name: str, seconds: float) -> None:
        """Something else has to come first: the file is due again later, and nothing failed.

        Args:
            name: a claimed name; when it changed while it was in flight it is due at once.
            seconds: until then. `claim` ends the waiting before.
        """
        delay = 0.0 if self._land(name) else seconds
        if len(self._due) >= self.remembered:
            self._spilled = True
        else:
            self._wait_until(name, trio.current_time() + delay)

    def forget_waiting(self) -> None:
        """Forget the delays of all waiting names: the caller lists the directory instead."""
        self._due.clear()
        self._heap.clear()
        self._attempts = {n: a for n, a in self._attempts.items() if n in self._in_flight}

    def take_spilled(self) -> bool:
        """Return whether a name was not remembered since the last call, so only a listing finds it."""
        spilled, self._spilled = self._spilled, False
        return spilled

    def take_due(self, limit: int) -> list[str]:
        """Take at most `limit` names whose time has come, the longest due first."""
        now = trio.current_time()
        names: list[str] = []
        while len(names) < limit and self.next_due() <= now:
            name = heapq.heappop(self._heap)[2]
            del self._due[name]
            names.append(name)
        return names

    def next_due(self) -> float:
        """Trio time at which the next waiting name becomes due; infinite when nothing waits."""
        while self._heap:
            when, _, name = self._heap[0]
            if self._due.get(name) == when:
                return when
            heapq.heappop(self._heap)
        return float("inf")

    async def drained(self) -> None:
        """Return when nothing is in flight."""
        await self._idle.wait()

    def _land(self, name: str) -> bool:
        changed = self._in_flight.pop(name)
        if not self._in_flight:
            self._idle.set()
        return changed

    def _wait_until(self, name: str, when: float) -> None:
        self._due[name] = when
        heapq.heappush(self._heap, (when, next(self._order), name))
        # Names that were claimed before their time leave stale entries behind.
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(t, next(self._order), n) for n, t in self._due.items()]
            heapq.heapify(self._heap)
        self.news.set()
