"""A bounded number of places for requests that take long, shared fairly."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Places:
    """So many requests at once, and of each claimant so many of them.

    Who comes too late is told so: a queue would only hide that there is more to do than can be.

    Args:
        total: of all.
        each: of one claimant.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, claimant: str) -> Iterator[bool]:
        """Take a place for as long as the block lasts; gives False if there is none."""
        if self._taken.total() >= self._total or self._taken[claimant] >= self._each:
            yield False
            return
        self._taken[claimant] += 1
        try:
            yield True
        finally:
            self._taken[claimant] -= 1
            self._taken += Counter()  # forgets who has none any more
