"""Files of nodes on hold are set aside as they arrive, instead of being processed."""

from collections.abc import Callable, Collection
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
        rescan: has the directory listed before any further file is sent.
    """

    def __init__(
        self,
        spool: Spool,
        place: str,
        pending: Pending,
        rescan: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._place = place
        self._pending = pending
        self._rescan = rescan
        self._nodes: frozenset[str] = frozenset()
        self._names: list[str] = []
        #: Nodes whose files are being set aside: should they be released, newer ones wait for
        #: those that are sent again.
        self._busy: frozenset[str] = frozenset()
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
        released = self._nodes.difference(nodes)
        self._nodes = frozenset(nodes)
        if released:
            # Files that are back must be known before newer ones of their node are sent.
            self._rescan()

    def take(self, name: str) -> bool:
        """Take over a claimed file if its node is on hold; return whether it was."""
        # Almost always there are no such nodes, and this is called for each file.
        if not (self._nodes or self._busy):
            return False
        node_id = self._node_of(name)
        if node_id not in self._nodes and node_id not in self._busy:
            return False
        self._names.append(name)
        self._busy |= {node_id}
        self._wake.set()
        return True

    def _node_of(self, name: str) -> str:
        return node_of(name, ordered=self._spool.ordered)

    async def run(self) -> None:
        """Set aside what was taken over, until cancelled."""
        while True:
            await self._wake.wait()
            names, self._names = self._names, []
            results = await in_thread(self._hold, names, limiter=self._limiter)
            for name, done in zip(names, results, strict=True):
                self._settle(name, done)
            # What came meanwhile follows those of its node that have just been put back.
            free = [name for name in self._names if self._node_of(name) not in self._nodes]
            for name in free:
                self._pending.put_back(name)
            self._names = [name for name in self._names if self._node_of(name) in self._nodes]
            self._busy = frozenset(map(self._node_of, self._names))

    def _hold(self, names: list[str]) -> list[Done | None]:
        """Set files aside; None stands for a file whose node was released meanwhile."""
        results: list[Done | None] = []
        with MOVING:
            for name in names:
                node_id = self._node_of(name)
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
