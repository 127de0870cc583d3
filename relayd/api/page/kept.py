"""Values that take long to make: the last one is shown while the next is made."""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import trio

from relayd.errors import RelaydError

T = TypeVar("T")


#: A value is shown until it is so many times as old as it should be.
_LAST: Final = 4


class Kept(Generic[T]):
    """A value that is made again when somebody asks and it is old.

    Args:
        make: makes it; raises `RelaydError` if it cannot be made, the last one is kept then.
        nursery: in which it is made.
        fresh_s: seconds after which it is old.
        wait_s: seconds for which those who ask wait for a new one.
    """

    def __init__(
        self, make: Callable[[], Awaitable[T]], nursery: trio.Nursery, fresh_s: float, wait_s: float
    ) -> None:
        self._make = make
        self._nursery = nursery
        self._fresh_s = fresh_s
        self._wait_s = wait_s
        self._value: T | None = None
        self._made_at = -math.inf
        self._tried_at = -math.inf
        self._made: trio.Event | None = None

    async def get(self) -> T | None:
        """Return the last value; None if there is none yet, or only a very old one."""
        if self._made is None and trio.current_time() - self._tried_at >= self._fresh_s:
            self._made = trio.Event()
            self._nursery.start_soon(self._renew, self._made, name="page: make a value")
        if self._made is not None:
            with trio.move_on_after(self._wait_s):
                await self._made.wait()
        old = trio.current_time() - self._made_at > _LAST * self._fresh_s
        return None if old else self._value

    async def _renew(self, made: trio.Event) -> None:
        with suppress(RelaydError):
            self._value = await self._make()
            self._made_at = trio.current_time()
        self._tried_at = trio.current_time()
        self._made = None
        made.set()
