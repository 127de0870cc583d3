"""A bell for one waiting task."""

import trio


class Wake:
    """Wakes one task; a ring that nobody waits for is kept for the next `wait`.

    Several rings before the task gets its turn count as one. Only one task may wait.
    """

    def __init__(self) -> None:
        self._rung = trio.Event()

    def set(self) -> None:
        """Wake the waiting task, or let its next `wait` return at once."""
        self._rung.set()

    async def wait(self) -> None:
        """Return when the bell was rung since the last return; a cancellation keeps the ring."""
        await self._rung.wait()
        self._rung = trio.Event()
