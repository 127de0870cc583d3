"""The deadline of a command or of a call to a relay, which each sign of progress puts off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from relayd.remote_run.helper.limits import PROGRESS_BYTES, Limits

#: What a sign of life without output counts for, so that these cannot go on forever either.
_SIGN_BYTES: Final = 1024


class Watch:
    """Cancels what runs inside `scope` when it makes no progress for too long.

    Attributes:
        scope: what is watched runs inside it; the time starts when this object is made.

    Args:
        limits: of what is watched.
    """

    def __init__(self, limits: Limits) -> None:
        now = trio.current_time()
        self._silence = limits.silence
        self._total = limits.total
        self._end = now + limits.total
        self._progress_left = PROGRESS_BYTES
        self._passing_on = 0
        self.scope = trio.CancelScope(deadline=min(self._end, now + limits.silence))

    @property
    def cut(self) -> bool:
        """Whether it was cancelled."""
        return self.scope.cancelled_caught

    @property
    def reason(self) -> str:
        """Why it was cancelled."""
        if trio.current_time() >= self._end:
            return f"not ended within {self._total:g} s"
        return f"no output for {self._silence:g} s"

    def sign(self) -> None:
        """Note a sign of life that is not passed on."""
        if self._counts(_SIGN_BYTES) and not self._passing_on:
            self._restart()

    @contextmanager
    def passing_on(self, size: int) -> Iterator[None]:
        """Note `size` bytes of progress; a reader who is slow to take them costs no time."""
        if not self._counts(size):
            yield
            return
        self._passing_on += 1
        self.scope.deadline = self._end
        try:
            yield
        finally:
            self._passing_on -= 1
            if not self._passing_on:
                self._restart()

    def _counts(self, size: int) -> bool:
        self._progress_left -= size
        return self._progress_left >= 0

    def _restart(self) -> None:
        self.scope.deadline = min(self._end, trio.current_time() + self._silence)
