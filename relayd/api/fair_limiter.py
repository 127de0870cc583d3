"""A bound on long requests, in total and for each client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class FairLimiter:
    """Admits a bounded number of requests at once, and a part of them for each client.

    Excess requests are rejected at once; queueing would only hide the overload.

    Args:
        total: of all clients.
        each: of one client.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._admitted: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str) -> Iterator[bool]:
        """Count a request of `client` for the duration of the block; yield False to reject it."""
        if self._admitted.total() >= self._total or self._admitted[client] >= self._each:
            yield False
            return
        self._admitted[client] += 1
        try:
            yield True
        finally:
            self._admitted[client] -= 1
            self._admitted += Counter()  # drops clients without a request
