"""Committed files that cannot be removed, and must not be processed again."""

from collections import OrderedDict
from typing import Final

import msgspec

from relayd.runlog.filename import queue_id
from relayd.spool.identity import Identity
from relayd.telemetry.logs import get_logger

log = get_logger("disposal")

#: About 400 bytes each. Beyond that, the oldest are forgotten; the database rejects duplicates.
_REMEMBERED: Final = 10_000


class WalPoint(msgspec.Struct, frozen=True):
    """A point in the history of a database, at which files were committed.

    Attributes:
        history: differs once the server is another one, was restarted, or had its state set back.
        position: grows with what is written in the same history.
    """

    history: str
    position: int


class Committed:
    """Remembers, by name and identity, committed files that are still in the spool."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Identity] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def holds(self, name: str, known: Identity) -> bool:
        """Return whether this very file is already committed, so that it only has to be removed."""
        return self._known.get(name) == known

    def remember(self, name: str, known: Identity, detail: str) -> None:
        """Remember a committed file that cannot be removed; log only the first of them."""
        if not self._known:
            log.error(
                "cannot remove committed file; it will not be processed again",
                file=name,
                queue_id=queue_id(name),
                detail=detail,
            )
        self._known[name] = known
        self._known.move_to_end(name)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, name: str) -> None:
        """Forget a file that is gone or was replaced."""
        if self._known.pop(name, None) is not None and not self._known:
            log.info("committed files can be removed again")
