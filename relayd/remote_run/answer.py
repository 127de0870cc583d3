"""Buffers for the answer of a run until its client has taken it, in bounded memory."""

from typing import Final, Protocol, Self
from weakref import WeakSet

import trio

#: Bytes that wait for a client that follows the run; beyond that, the run has to wait.
HIGH_WATER: Final = 64 * 1024
#: Bytes of one piece of an answer; `relayd.api.server.limits` has the client's deadline for each.
PIECE: Final = 32 * 1024
#: Bytes of output that are kept for a client that wants them at the end.
HELD: Final = 16 * 1024 * 1024
#: The same for all runs together.
HELD_TOTAL: Final = 64 * 1024 * 1024


class Sink(Protocol):
    """Takes the bytes of an answer, and returns them by iteration, once.

    Neither writing nor reading is a checkpoint unless it has to wait: a line of output should cost
    as little as possible, and users of a sink wait for commands or clients anyway.
    """

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """Take some bytes; return False if they are dropped, which never happens to vital ones."""
        ...

    def end(self) -> None:
        """Mark the end of the answer."""
        ...

    def leave(self) -> None:
        """Drop what is buffered and what will be written, because the reader is gone."""
        ...

    def __aiter__(self) -> Self:
        """Iterate over the bytes, in pieces of at most `PIECE`."""
        ...

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        ...


class _Buffer:
    """The reader's side of a sink; subclasses add the writer's side."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False
        self._left = False
        self._news = trio.Event()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def leave(self) -> None:
        self._left = True
        self._data.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._data:
            if self._ended:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        return self._take()

    def _take(self) -> bytes:
        piece = bytes(self._data[:PIECE])
        del self._data[:PIECE]
        return piece

    def _add(self, data: bytes) -> None:
        if not self._left:
            self._data += data
            self._news.set()


class StreamedAnswer(_Buffer):
    """An answer for a client that follows the run: when it reads slowly, the writer waits."""

    def __init__(self) -> None:
        super().__init__()
        self._writable = trio.Event()

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`; nothing is ever dropped."""
        while len(self._data) >= HIGH_WATER:
            self._writable = trio.Event()
            await self._writable.wait()
        self._add(data)
        return True

    def leave(self) -> None:
        """See `Sink.leave`."""
        super().leave()
        self._writable.set()

    def _take(self) -> bytes:
        piece = super()._take()
        self._writable.set()
        return piece


class Budget:
    """The memory that all held answers share."""

    def __init__(self, total: int = HELD_TOTAL) -> None:
        self._total = total
        # Weak references, so that an answer returns its share however it is disposed of.
        self._users: WeakSet[HeldAnswer] = WeakSet()

    def add(self, user: "HeldAnswer") -> None:
        """Count the bytes of `user` from now on."""
        self._users.add(user)

    def free(self) -> int:
        """Return the number of bytes that are not in use."""
        return self._total - sum(user.size for user in self._users)


class HeldAnswer(_Buffer):
    """An answer for a client that wants it at the end: output beyond a limit is dropped."""

    def __init__(self, budget: Budget, limit: int = HELD) -> None:
        super().__init__()
        self._budget = budget
        self._limit = limit
        budget.add(self)

    @property
    def size(self) -> int:
        """Number of bytes that are held."""
        return len(self._data)

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`."""
        await trio.lowlevel.checkpoint()
        free = min(self._limit - len(self._data), self._budget.free())
        if vital or len(data) <= free:
            self._add(data)
            return True
        return False


class NoAnswer(_Buffer):
    """An answer without content, for a client that only waits for its end."""

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`."""
        await trio.lowlevel.checkpoint()
        return True
