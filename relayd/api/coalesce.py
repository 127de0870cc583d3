"""Concurrent calls of a costly action share its runs."""

from collections.abc import Awaitable, Callable

import trio

from relayd.errors import RelaydError


class _Run:
    """One run of the action, shared by the callers that arrived before it began."""

    def __init__(self) -> None:
        self.done = False
        self.error: RelaydError | None = None


class Coalesced:
    """Runs an action once for all callers that arrive while an earlier run is in progress.

    A caller gets the outcome of a run that began after its call, never of one that may have read
    its input before the caller changed it. Runs never overlap. If a caller is cancelled while it
    runs the action, the next waiting caller takes over.
    """

    def __init__(self, action: Callable[[], Awaitable[None]]) -> None:
        self._action = action
        self._lock = trio.Lock()
        self._next = _Run()

    async def __call__(self) -> None:
        """Wait for a run that begins after this call.

        Raises:
            RelaydError: the run failed; all callers that share it get the same error.
        """
        run = self._next
        async with self._lock:
            if not run.done:
                await self._perform(run)
        if run.error is not None:
            raise run.error

    async def _perform(self, run: _Run) -> None:
        self._next = _Run()
        try:
            await self._action()
        except RelaydError as error:
            run.error = error
        run.done = True
