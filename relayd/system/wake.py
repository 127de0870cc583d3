"""A wake-up signal for one waiting task."""

import trio


class Wake:
    """Wakes one task; a signal sent while no task waits is kept for the next `wait`.

    Several signals before the task runs count as one. Only one task may wait.
    """

    def __init__(self) -> None:
        self._signal = trio.Event()

    def set(self) -> None:
        """Wake the waiting task, or let its next `wait` return at once."""
        self._signal.set()

    @property
    def is_set(self) -> bool:
        """Whether there is a signal that was not consumed yet."""
        return self._signal.is_set()

    async def wait(self) -> None:
        """Wait for a signal and consume it; cancellation does not consume it."""
        await self._signal.wait()
        self._signal = trio.Event()
