"""Where the answer of a run goes until its client has taken it, in bounded memory."""

from typing import Final, Protocol, Self
from weakref import WeakSet

import trio

#: Bytes that wait for a client that follows the run; then the run has to.
HIGH_WATER: Final = 64 * 1024
#: Bytes of one piece of an answer; `relayd.api.server.limits` has the client's deadline for each.
PIECE: Final = 32 * 1024
#: Bytes of output that are kept for a client who wants them at the end.
HELD: Final = 16 * 1024 * 1024
#: The same of all runs together.
HELD_TOTAL: Final = 64 * 1024 * 1024


class Sink(Protocol):
    """Takes the bytes of an answer, and gives them out by iteration, once.

    Neither writing nor reading is a checkpoint where there is nothing to wait for: a line of output
    costs as little as can be, and whoever uses a sink waits for commands or clients anyway.
    """

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """Take some bytes; False when they are left out, which never happens to vital ones."""
        ...

    def end(self) -> None:
        """Nothing more will come."""
        ...

    def leave(self) -> None:
        """Nobody reads any more: what is there and what will come is dropped."""
        ...

    def __aiter__(self) -> Self:
        """The bytes, in pieces of at most `PIECE`."""
        ...

    async def __anext__(self) -> bytes:
        """The next piece."""
        ...


class _Buffer:
    """Bytes on their way; a writer's part is in the classes below."""

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


class Stream(_Buffer):
    """For a client that follows: when it reads slowly, the writer waits."""

    def __init__(self) -> None:
        super().__init__()
        self._room = trio.Event()

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`; nothing is ever left out."""
        while len(self._data) >= HIGH_WATER:
            self._room = trio.Event()
            await self._room.wait()
        self._add(data)
        return True

    def leave(self) -> None:
        """See `Sink.leave`."""
        super().leave()
        self._room.set()

    def _take(self) -> bytes:
        piece = super()._take()
        self._room.set()
        return piece


class Budget:
    """The bytes that all held answers share."""

    def __init__(self, total: int = HELD_TOTAL) -> None:
        self._total = total
        # Weak, so that an answer that is dropped on any way gives its part back.
        self._users: WeakSet[Held] = WeakSet()

    def add(self, user: "Held") -> None:
        """`user` counts from now on."""
        self._users.add(user)

    def room(self) -> int:
        """Return bytes that are not in use."""
        return self._total - sum(user.size for user in self._users)


class Held(_Buffer):
    """For a client that wants the whole at the end: what is too much is left out."""

    def __init__(self, budget: Budget, limit: int = HELD) -> None:
        super().__init__()
        self._budget = budget
        self._limit = limit
        budget.add(self)

    @property
    def size(self) -> int:
        """Bytes that are kept at the moment."""
        return len(self._data)

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`."""
        await trio.lowlevel.checkpoint()
        room = min(self._limit - len(self._data), self._budget.room())
        if vital or len(data) <= room:
            self._add(data)
            return True
        return False


class Nothing(_Buffer):
    """For a client that wants no answer but its end."""

    async def write(self, data: bytes, *, vital: bool = False) -> bool:
        """See `Sink.write`."""
        await trio.lowlevel.checkpoint()
        return True
