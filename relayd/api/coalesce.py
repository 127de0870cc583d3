"""Many callers of a costly action, few runs of it."""

from collections.abc import Awaitable, Callable

import trio

from relayd.errors import RelaydError


class _Run:
    """One run of the action, shared by those who asked before it began."""

    def __init__(self) -> None:
        self.done = False
        self.error: RelaydError | None = None


class Coalesced:
    """Runs an action once for all who ask for it while an earlier run is still going on.

    Who asks gets the outcome of a run that began after the question: never that of a run which
    may have read the world before the caller changed it. Runs never overlap. A caller that is
    cancelled while it runs the action leaves the run to the next one who waits for it.
    """

    def __init__(self, action: Callable[[], Awaitable[None]]) -> None:
        self._action = action
        self._lock = trio.Lock()
        self._next = _Run()

    async def __call__(self) -> None:
        """Waits for a run that begins from now on.

        Raises:
            RelaydError: that run failed; everyone who shares it gets the same error.
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
