"""Locks by name, which exist while they are used."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Locks:
    """One lock for each key; memory grows with the keys in use only. For threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[tuple[str, ...], tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, *key: str) -> Iterator[None]:
        """Hold the lock of a key for the duration of the block."""
        lock = self._take(key)
        try:
            with lock:
                yield
        finally:
            self._leave(key)

    def _take(self, key: tuple[str, ...]) -> threading.Lock:
        with self._guard:
            lock, users = self._locks.get(key) or (threading.Lock(), 0)
            self._locks[key] = lock, users + 1
            return lock

    def _leave(self, key: tuple[str, ...]) -> None:
        with self._guard:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1
