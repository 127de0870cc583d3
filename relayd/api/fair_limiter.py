"""A bound on long requests, in total and for each client, with a queue in front of it."""

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

#: Seconds that a request waits at most. Web servers give up after 60 s without an answer, and the
#: request itself takes time, also at the policy server above, which has such a queue as well.
WAIT_S: Final = 25.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many requests are admitted and may wait.

    Attributes:
        total: admitted at once, of all clients.
        each: admitted at once, of one client.
        waiting: in the queue, of all clients.
        wait_s: seconds that one waits at most.
    """

    total: int
    each: int
    waiting: int
    wait_s: float = WAIT_S


class _Waiter:
    def __init__(self) -> None:
        self.answered = trio.Event()
        self.admitted = False

    def answer(self, *, admitted: bool) -> None:
        self.admitted = admitted
        self.answered.set()


class FairLimiter:
    """Admits a bounded number of requests at once; others wait, and clients take turns.

    If the queue is full, the client with most requests in it has its last one rejected.

    Args:
        bounds: how many are admitted and may wait.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._admitted: Counter[str] = Counter()
        # The client whose turn it is comes first.
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def admit(self, client: str) -> AsyncIterator[bool]:
        """Wait for a place, and take it for the duration of the block; yield False to reject it."""
        if not await self._enter(client):
            yield False
            return
        try:
            yield True
        finally:
            self._admitted[client] -= 1
            self._admitted += Counter()  # drops clients without a request
            self._admit_waiting()

    async def _enter(self, client: str) -> bool:
        waiter = _Waiter()
        self._queues.setdefault(client, deque()).append(waiter)
        self._admit_waiting()
        if self.waiting > self._bounds.waiting:
            self._reject_one()
        try:
            with trio.move_on_after(self._bounds.wait_s):
                await waiter.answered.wait()
        except trio.Cancelled:
            self._leave(client, waiter)
            raise
        if not waiter.answered.is_set():
            self._forget(client, waiter)
        return waiter.admitted

    def _admit_waiting(self) -> None:
        """Admit requests while there are free places, one of each client in turn."""
        while self._admitted.total() < self._bounds.total:
            client = next(filter(self._may_enter, self._queues), None)
            if client is None:
                return
            self._admitted[client] += 1
            waiter = self._queues[client][0]
            self._queues.move_to_end(client)
            self._forget(client, waiter)
            waiter.answer(admitted=True)

    def _may_enter(self, client: str) -> bool:
        return self._admitted[client] < self._bounds.each

    def _reject_one(self) -> None:
        client = max(self._queues, key=lambda name: len(self._queues[name]))
        waiter = self._queues[client][-1]
        self._forget(client, waiter)
        waiter.answer(admitted=False)

    def _forget(self, client: str, waiter: _Waiter) -> None:
        queue = self._queues[client]
        queue.remove(waiter)
        if not queue:
            del self._queues[client]

    def _leave(self, client: str, waiter: _Waiter) -> None:
        """Give back what a cancelled request has, or waits for."""
        if not waiter.answered.is_set():
            self._forget(client, waiter)
        elif waiter.admitted:
            self._admitted[client] -= 1
            self._admit_waiting()
