"""What became of a file at its output; separate, so that not every user loads that output."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from relayd.config.main_conf import Settings
from relayd.errors import Refused, Retry
from relayd.runlog.model import RunLog


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The output has the file, so it can leave the spool.

    Attributes:
        again: it was counted before; only the file was left to remove.
    """

    again: bool = False


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
    """

    name: str

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

    def reconfigure(self, settings: Settings) -> None:
        """Use the settings of a reloaded configuration from the next connection on."""
        ...
