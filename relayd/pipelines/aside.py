"""Files of nodes on hold are set aside as they arrive, instead of being processed."""

from collections.abc import Collection
from typing import Final

import trio

from relayd.errors import StartError
from relayd.spool.layout import Spool
from relayd.spool.operations.act import MOVING, Done, hold_one
from relayd.spool.operations.entries import Entry, node_of
from relayd.spool.operations.rules import read_rules
from relayd.spool.pending import Pending
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger

log = get_logger("disposal")

#: Seconds until another attempt with a file that cannot be set aside.
RETRY_S: Final = 10.0


class Aside:
    """Sets files of one watched directory aside.

    Args:
        spool: the spool.
        place: the name of the watched directory.
        pending: the names in flight.
    """

    def __init__(self, spool: Spool, place: str, pending: Pending) -> None:
        self._spool = spool
        self._place = place
        self._pending = pending
        self._nodes: Collection[str] = frozenset()
        self._names: list[str] = []
        self._wake = Wake()
        self._limiter = trio.CapacityLimiter(1)

    async def load(self) -> None:
        """Read which nodes are on hold; without that, none is."""
        try:
            self.note_nodes(await in_thread(read_rules, self._spool, limiter=self._limiter))
        except StartError as error:
            log.error("no node is on hold", detail=str(error))

    def note_nodes(self, nodes: Collection[str]) -> None:
        """Set files of these nodes aside from now on, and no others."""
        self._nodes = frozenset(nodes)

    def take(self, name: str) -> bool:
        """Take over a claimed file if its node is on hold; return whether it was."""
        # Almost always there are no such nodes, and this is called for each file.
        if not self._nodes or node_of(name, ordered=self._spool.ordered) not in self._nodes:
            return False
        self._names.append(name)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Set aside what was taken over, until cancelled."""
        while True:
            await self._wake.wait()
            names, self._names = self._names, []
            for name, done in zip(
                names, await in_thread(self._hold, names, limiter=self._limiter), strict=True
            ):
                self._settle(name, done)

    def _hold(self, names: list[str]) -> list[Done | None]:
        """Set files aside; None stands for a file whose node was released meanwhile."""
        results: list[Done | None] = []
        with MOVING:
            for name in names:
                node_id = node_of(name, ordered=self._spool.ordered)
                entry = Entry(self._spool, self._place, name, node_id, 0.0)
                results.append(hold_one(entry) if node_id in self._nodes else None)
        return results

    def _settle(self, name: str, done: Done | None) -> None:
        if done is None:
            self._pending.put_back(name)
        elif done.moved:
            self._pending.release(name)
        else:
            log.warning("file of a node on hold cannot be set aside", file=name, detail=done.detail)
            self._pending.retry(name, floor=RETRY_S)
