"""Events between relayd and a terminal: read at once, shown as fast as the terminal takes them."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

#: Bytes of output that wait for a slow terminal; further lines are dropped and counted. Relayd
#: disconnects a client that reads nothing for half a minute, so it must never wait for one.
LIMIT: Final = 16 * 1024 * 1024
#: Bytes of an event besides its line of output.
_OVERHEAD: Final = 500

Event = dict[str, Any]


class Backlog:
    """Events in their order, in bounded memory; one thread adds them, another one takes them.

    Each event gets `at`, the time of its arrival, from a monotonic clock in seconds. Dropped lines
    become one event `dropped` with their number, `lines`. Other events are never dropped: there
    are at most three of them for each node.

    Args:
        limit: bytes of output that are kept.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._events: deque[Event] = deque()
        self._dropped: Event | None = None
        self._error: Exception | None = None
        self._ended = False
        self._news = threading.Condition()

    def fill(self, events: Iterable[Event]) -> None:
        """Add all of them; their error, if there is one, is raised where they are taken."""
        try:
            for event in events:
                self._add(event)
        except Exception as error:
            self._error = error
        with self._news:
            self._ended = True
            self._news.notify()

    def _add(self, event: Event) -> None:
        size = _size(event)
        with self._news:
            if size and self._size + size > self._limit:
                self._drop()
            else:
                self._dropped = None
                self._size += size
                self._append(event)

    def _drop(self) -> None:
        if self._dropped is None:
            self._dropped = {"event": "dropped", "lines": 0}
            self._append(self._dropped)
        self._dropped["lines"] += 1

    def _append(self, event: Event) -> None:
        event["at"] = time.monotonic()
        self._events.append(event)
        self._news.notify()

    def __iter__(self) -> Iterator[Event]:
        """Yield each event; at the end raise the error that has ended them."""
        while True:
            with self._news:
                while not self._events and not self._ended:
                    self._news.wait()
                if not self._events:
                    break
                event = self._events.popleft()
                self._size -= _size(event)
                if event is self._dropped:
                    self._dropped = None
            yield event
        if self._error is not None:
            raise self._error


def _size(event: Event) -> int:
    """Return the bytes of a line of output, 0 for other events."""
    return len(str(event.get("output"))) + _OVERHEAD if event.get("event") == "output" else 0
