"""Where in its history the database is: whether it may have lost what it had committed.

After a failover with asynchronous replication the new primary lacks the last commits of the old
one; a server that was set back, by a restored snapshot for example, lacks those since then.
"""

from typing import Final

from relayd.spool.committed import WalPoint

#: Servers whose last position is remembered.
_REMEMBERED: Final = 100


class History:
    """Turns what servers report into points.

    Attributes:
        at: the last point; None before the first.
    """

    def __init__(self) -> None:
        self.at: WalPoint | None = None
        self._positions: dict[int, int] = {}
        self._set_back: dict[int, str] = {}

    def note(self, server: int, position: int) -> WalPoint:
        """Return the point at which a server is.

        Args:
            server: number that differs once the server, its start or its timeline does.
            position: bytes of its WAL.
        """
        if position < self._positions.get(server, 0):
            # The same server, with less in it than before.
            self._set_back[server] = f"x{position:x}"
        if len(self._positions) >= _REMEMBERED and server not in self._positions:
            self._positions.clear()
        self._positions[server] = position
        history = f"{server & (2**64 - 1):016x}{self._set_back.get(server, '')}"
        self.at = WalPoint(history, position)
        return self.at
