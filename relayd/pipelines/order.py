"""Batches that are worked on at once, and leave in order where they concern the same nodes."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class NodeOrder:
    """Keeps the order of each node's files over several lanes.

    A batch waits only for earlier ones that have a node in common with it, so that a slow file does
    not hold up other nodes.
    """

    def __init__(self) -> None:
        self._last: dict[str, trio.Event] = {}

    @contextmanager
    def place(self, nodes: set[str]) -> Iterator[list[trio.Event]]:
        """Take the place behind all batches with these nodes; leave it at the end of the block.

        Yields:
            What must have happened before results of this batch are passed on.
        """
        before = [self._last[node] for node in nodes if node in self._last]
        done = trio.Event()
        self._last.update(dict.fromkeys(nodes, done))
        try:
            yield before
        finally:
            done.set()
            for node in nodes:
                if self._last.get(node) is done:
                    del self._last[node]
