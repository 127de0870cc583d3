"""What became of a file at its output; separate, so that not every user loads that output."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, Protocol

import msgspec

from relayd.config.main_conf import Settings
from relayd.errors import Refused, Retry
from relayd.runlog.model import RunLog
from relayd.spool.committed import WalPoint
from relayd.system.wake import Wake


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The output has the file, so it can leave the spool.

    Attributes:
        again: it was counted before; only the file was left to remove.
        point: where it was committed, if committed files are kept for a while.
    """

    again: bool = False
    point: WalPoint | None = None


class Stored(Done, frozen=True):
    """A run log that is in the database.

    Attributes:
        rows: rows that this call inserted, 0 for a duplicate or an empty run log.
        duplicate: the run log was in the database already.
        missing: rows of this duplicate that are not stored (a longer version of the same run).
        broken: reports of the run log that are malformed, so that nothing can store them.
    """

    rows: int
    duplicate: bool = False
    missing: int = 0
    broken: int = 0


class Forwarded(Done, frozen=True):
    """A file that the upstream has."""


class HeldFiles(msgspec.Struct, frozen=True):
    """Committed files that are kept for a while, as the status shows them.

    Attributes:
        files: how many there are.
        bytes: their size.
        replayed: how many were processed again since the start.
        missing: of how many of these the rows were missing, and were stored again.
        released_early: how many were removed before their time, for want of space.
    """

    files: int
    bytes: int
    replayed: int
    missing: int
    released_early: int


class ServerFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The server that has the store, as the status shows it.

    Attributes:
        address: as host:port, or the path of its socket.
        role: "primary", or "standby" while it only replays what another one writes.
        timeline: number that grows with each failover; absent if it is unknown.
    """

    address: str
    role: Literal["primary", "standby"]
    timeline: int | msgspec.UnsetType = msgspec.UNSET


class StoreFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the status shows of a store.

    Attributes:
        server: the server that was reached last; absent before the first.
        held: numbers of the committed files that are kept for a while; absent if none are.
    """

    server: ServerFacts | msgspec.UnsetType = msgspec.UNSET
    held: HeldFiles | msgspec.UnsetType = msgspec.UNSET


#: The verdict on a run log that is newer than one of its node that has to wait.
BEHIND: Final = Retry("waits for an older run of its node", attempted=False)

#: `Retry`: the tables refuse this run log now, though they accept others.
Written = Stored | Refused | Retry

#: Raises `RelaydError` when an output is not available.
Probe = Callable[[], Awaitable[None]]


class RunLogStore(Protocol):
    """An output of run logs that writes them in batches.

    Attributes:
        name: the output as in `processing.reporting.output`, log lines and the status.
        moved: set when the store is found at another history than before.
    """

    name: str
    moved: Wake

    @property
    def server(self) -> ServerFacts | None:
        """The server that was reached last; None before the first."""
        ...

    async def locate(self) -> WalPoint:
        """Return where the store is now.

        Raises:
            DatabaseError: it could not be asked, or run logs could not be written now.
        """
        ...

    async def write(self, batch: Sequence[RunLog]) -> Sequence[Written]:
        """Store a batch; return what became of each run log, in order.

        Raises:
            DatabaseError: nothing is known to be stored; the batch can be written again.
        """
        ...

    async def probe(self) -> None:
        """Raise `DatabaseError` if nothing could be written now."""
        ...

    async def look(self) -> None:
        """Do as `probe`, for an idle store, with as little as possible."""
        ...

    async def definition(self) -> str:
        """Return a token that differs once the store may accept what it has refused.

        Raises:
            DatabaseError: it could not be asked.
        """
        ...

    async def last_run(self, node_id: str) -> float | None:
        """Return the start of the last stored run of a node, Unix time; None if there is none.

        Raises:
            DatabaseError: it could not be asked, or did not answer in time.
        """
        ...

    def reconfigure(self, settings: Settings) -> None:
        """Use the settings of a reloaded configuration from the next connection on."""
        ...
