"""The names that wait in the watcher: in the order of their dates for each node, nodes in turn.

A node whose only files are fresh ones goes first. A fresh file of a node with a backlog comes after
the older ones. Files of a node that wait for an older one are passed over, and those of a node that
has its share in flight.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from math import inf

import trio

from relayd.spool.holds import Holds
from relayd.spool.shares import Shares

Run = tuple[str, float]


class Turns:
    """Names by node. A name without a run is a node of its own.

    Attributes:
        listed: number of names that were found by a listing, without an event.
    """

    def __init__(self, holds: Holds, shares: Shares | None = None) -> None:
        self._holds = holds
        self._shares = shares or Shares()
        self._reset()

    def _reset(self) -> None:
        self.listed = 0
        self._names: dict[str, bool | None] = {}
        self._queues: dict[str, list[tuple[float, str]]] = {}
        self._backlog: dict[str, int] = {}
        self._fresh: deque[str] = deque()
        self._late: deque[str] = deque()
        self._parked: dict[str, float] = {}
        #: By the node of their share, those that wait for it.
        self._full: dict[str, deque[str]] = {}
        self._shares.waiting.clear()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @property
    def fresh(self) -> int:
        """Number of nodes that have fresh files only."""
        return len(self._fresh)

    def add(self, name: str, run: Run | None, atomic: bool | None) -> None:
        """Add a name; `atomic` is that of its event, None if a listing found it."""
        node, date = run or ("/" + name, 0.0)
        if name in self._names:
            if self._names[name] is None and atomic is not None:
                self._count(node, -1)
            if atomic is not None:
                self._names[name] = atomic
            return
        self._names[name] = atomic
        if atomic is None:
            self._count(node, 1)
        queue = self._queues.get(node)
        if queue is None:
            self._queues[node] = queue = []
            self._append(node)
        heapq.heappush(queue, (date, name))
        if node in self._parked and queue[0][1] == name:
            # What the others wait for may be newer than this one.
            del self._parked[node]
            self._append(node)

    def _count(self, node: str, change: int) -> None:
        self.listed += change
        self._backlog[node] = self._backlog.get(node, 0) + change
        if not self._backlog[node]:
            del self._backlog[node]

    def _append(self, node: str) -> None:
        (self._late if node in self._backlog else self._fresh).append(node)

    def replace_listed(self, found: Sequence[tuple[str, Run | None]]) -> set[str]:
        """Replace the names of the last listing; return those that are no longer there."""
        before = self._names
        waiting = self._all()
        self._reset()
        for name, run in found:
            self.add(name, run, before.get(name))
        for name, run in waiting:
            if before[name] is not None:
                self.add(name, run, before[name])
        return before.keys() - self._names.keys()

    def _all(self) -> list[tuple[str, Run | None]]:
        return [
            (name, None if node.startswith("/") else (node, date))
            for node, queue in self._queues.items()
            for date, name in queue
        ]

    def pop_fresh(self) -> tuple[str, bool] | None:
        """Take the next name of a node that has fresh ones only."""
        return self._pop(self._fresh)

    def pop_late(self) -> tuple[str, bool] | None:
        """Take the next name of a node that has a backlog."""
        return self._pop(self._late)

    def _pop(self, nodes: deque[str]) -> tuple[str, bool] | None:
        while nodes:
            node = nodes.popleft()
            queue = self._queues[node]
            if until := self._holds.until(node, queue[0][0]):
                self._parked[node] = until
                continue
            share = self._share(node, queue[0][1])
            if not self._shares.left(share):
                self._full.setdefault(share, deque()).append(node)
                self._shares.waiting.add(share)
                continue
            name = heapq.heappop(queue)[1]
            atomic = self._names.pop(name)
            if atomic is None:
                self._count(node, -1)
            if queue:
                self._append(node)
            else:
                del self._queues[node]
            return name, bool(atomic)
        return None

    def _share(self, node: str, name: str) -> str:
        return self._shares.node_of(name) if node.startswith("/") else node

    def must_wait(self, name: str, run: Run | None) -> bool:
        """Return whether a name that was not taken here has to wait for others of its node."""
        if run is not None and self._holds.until(*run):
            return True
        return not self._shares.left(self._share(run[0] if run else "/" + name, name))

    def free(self) -> None:
        """Let nodes take part again that no longer wait for an older run, or for their share."""
        for share in self._shares.freed:
            if (waiting := self._full.get(share)) is not None:
                for _ in range(int(min(self._shares.left(share), len(waiting)))):
                    self._append(waiting.popleft())
                if not waiting:
                    del self._full[share]
                    self._shares.waiting.discard(share)
        self._shares.freed.clear()
        freed = self._holds.freed
        if freed:
            nodes = freed & self._parked.keys()
            freed.clear()
        elif self.next_free() <= trio.current_time():
            now = trio.current_time()
            nodes = {node for node, until in self._parked.items() if until <= now}
        else:
            return
        for node in nodes:
            del self._parked[node]
            self._append(node)

    def next_free(self) -> float:
        """Return the Trio time at which the next waiting node is free."""
        return min(self._parked.values(), default=inf)
