"""Stops and restarts the taking of files, while they are watched and counted as before."""

import trio


class Valve:
    """Whether files are taken.

    Attributes:
        closed: whether none are taken now.
    """

    def __init__(self) -> None:
        self.closed = False
        self._opened = trio.Event()

    def set(self, *, closed: bool) -> None:
        """Close or open it."""
        if closed and not self.closed:
            self._opened = trio.Event()
        self.closed = closed
        if not closed:
            self._opened.set()

    async def wait_open(self) -> None:
        """Return as soon as files are taken."""
        while self.closed:
            await self._opened.wait()
