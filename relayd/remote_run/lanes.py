"""Queues for runs whose clients have gone: as many as memory holds, in order, one lane at a time.

The server's web application starts the agents of all nodes with one request for each node, and
never repeats one. A run that has to wait for a free command is a short record here, not a task: it
takes 1 KiB instead of 12.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import trio

from relayd.remote_run.audit import Requester
from relayd.remote_run.request import RunRequest

#: Memory for all runs that have not ended; further runs are refused. More than 200,000 runs for one
#: node each.
MEMORY: Final = 256 * 1024 * 1024
#: Bytes of a run that waits in a lane, and of one that is executed (its tasks).
WAITING: Final = 1024
EXECUTED: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run in a lane."""

    request: RunRequest
    requester: Requester

    @property
    def size(self) -> int:
        """Bytes of memory, with what is kept of the request."""
        request = self.request
        names = (*(request.nodes or ()), *request.conditions, self.requester.forwarded_for)
        return WAITING + sum(64 + len(name) for name in names)


class Slot:
    """The right to one of a limited number of things, such as commands."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._held = False

    @classmethod
    def take_at_once(cls, limiter: trio.CapacityLimiter) -> Self | None:
        """Return a slot if one is free and nobody waits for it."""
        slot = cls(limiter)
        try:
            limiter.acquire_on_behalf_of_nowait(slot)
        except trio.WouldBlock:
            return None
        slot._held = True
        return slot

    @classmethod
    async def take(cls, limiter: trio.CapacityLimiter) -> Self:
        """Return a slot, in the order of the calls."""
        slot = cls(limiter)
        await limiter.acquire_on_behalf_of(slot)
        slot._held = True
        return slot

    def of(self, limiter: trio.CapacityLimiter) -> bool:
        """Return whether it is one of this limiter."""
        return self._limiter is limiter

    def release(self) -> None:
        """Give it back; only the first call has an effect."""
        if self._held:
            self._held = False
            self._limiter.release_on_behalf_of(self)


class Lane:
    """Runs that wait, in the order of their requests, for a slot of one limiter.

    Args:
        limiter: its other users get every second slot at least: only the first run of a lane is
            in its queue.
    """

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._waiting: deque[Waiting] = deque()
        self._served = False

    def __len__(self) -> int:
        """Return the number of runs that wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        """Iterate over the runs that wait."""
        return iter(self._waiting)

    def enter(self) -> Slot | None:
        """Return a slot if there is one without waiting."""
        return None if self._waiting else Slot.take_at_once(self._limiter)

    def add(self, waiting: Waiting) -> bool:
        """Add a run to the end; return whether the caller has to start `serve`."""
        self._waiting.append(waiting)
        served, self._served = self._served, True
        return not served

    async def serve(self, start: Callable[[Waiting, Slot], None]) -> None:
        """Start one run after the other, each with a slot, until no more are waiting."""
        while self._waiting:
            slot = await Slot.take(self._limiter)
            start(self._waiting.popleft(), slot)
        self._served = False
