"""A bound on how often one event is logged."""

import threading
from typing import Final, NamedTuple

#: Lines of one event per window, unless the logger has a limit of its own.
BURST: Final = 10
WINDOW_S: Final = 1.0
#: Distinct events tracked at once. Relayd's own events are constants, but the messages of
#: libraries may differ from line to line.
_MAX_EVENTS: Final = 1024


class Key(NamedTuple):
    """Identifies lines that count as the same event."""

    level: str
    component: str
    event: str


class _Window:
    __slots__ = ("admitted", "ends", "suppressed")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.admitted = 0
        self.suppressed = 0


class RateLimit:
    """Admits some lines of each event per window and counts the rest.

    Safe to use from any thread. The lock is re-entrant: a finaliser may log while it is held.
    """

    def __init__(self) -> None:
        self._windows: dict[Key, _Window] = {}
        self._over: dict[Key, int] = {}
        self._lock = threading.RLock()

    def admit(self, key: Key, now: float, burst: int = BURST) -> tuple[bool, bool]:
        """Count one line.

        Args:
            key: the event.
            now: seconds of a monotonic clock.
            burst: lines of this event that are logged per window.

        Returns:
            Whether to log it, and whether it is the first suppressed line of its window.
        """
        with self._lock:
            window = self._windows.get(key)
            if window is None or now >= window.ends:
                window = self._open(key, now)
            if window.admitted < burst:
                window.admitted += 1
                return True, False
            window.suppressed += 1
            return False, window.suppressed == 1

    def due(self, now: float) -> list[tuple[Key, int]]:
        """Return how many lines of each event were left out in windows that have ended.

        Each count is returned once.
        """
        with self._lock:
            for key in [key for key, window in self._windows.items() if now >= window.ends]:
                self._close(key)
            due, self._over = list(self._over.items()), {}
        return due

    def next_due(self) -> float | None:
        """Return when `due` will next return a count; None while no line was left out."""
        with self._lock:
            ends = [window.ends for window in self._windows.values() if window.suppressed]
            return 0.0 if self._over else min(ends, default=None)

    def _open(self, key: Key, now: float) -> _Window:
        self._close(key)
        if len(self._windows) >= _MAX_EVENTS:
            for other in list(self._windows):
                self._close(other)
        window = self._windows[key] = _Window(now + WINDOW_S)
        return window

    def _close(self, key: Key) -> None:
        window = self._windows.pop(key, None)
        if window is not None and window.suppressed:
            self._over[key] = self._over.get(key, 0) + window.suppressed
