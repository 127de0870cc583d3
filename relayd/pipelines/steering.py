"""The queue of a running relayd, as operators see and change it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from relayd.errors import RelaydError
from relayd.fleet.finding import find_nodes
from relayd.fleet.nodes import Nodes
from relayd.pipelines.line import Line
from relayd.spool.layout import Spool
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.views import Attempt
from relayd.spool.pending import Pending
from relayd.system.threads import in_thread

T = TypeVar("T")

#: Seconds after which an operation ends between two batches of files; it can be repeated.
OPERATION_S: Final = 120.0
#: Seconds that an operation waits in all for files in flight.
RECALL_S: Final = 2.0


class Lines:
    """The watched directories of a running relayd; its methods are called in threads of Trio."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._patience = 0.0
        self._pending = {line.path: line.pending for line in lines}

    def claim(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Claim names that are not in flight; where no line is, nobody else works on files."""
        trio.from_thread.check_cancelled()
        pending = self._pending.get(directory)
        return names if pending is None else trio.from_thread.run_sync(pending.take_over, names)

    def recall(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Claim names, those in flight as soon as the line lets go of them."""
        pending = self._pending.get(directory)
        return names if pending is None else trio.from_thread.run(self._recall, pending, names)

    async def _recall(self, pending: Pending, names: Sequence[str]) -> Collection[str]:
        begun = trio.current_time()
        claimed = await pending.recall(names, self._patience)
        self._patience = max(0.0, self._patience - (trio.current_time() - begun))
        return claimed

    def begin(self) -> None:
        """Begin an operation, which may wait for files in flight."""
        self._patience = RECALL_S

    def settle(self, directory: Path, left: Collection[str], stay: Collection[str]) -> None:
        """Give claimed names back."""
        pending = self._pending.get(directory)
        if pending is not None:
            trio.from_thread.run_sync(pending.give_back, left, stay)

    def attempts(self, directory: Path) -> Mapping[str, Attempt]:
        """Return what is in flight or was tried before."""
        pending = self._pending.get(directory)
        return {} if pending is None else trio.from_thread.run_sync(_attempts, pending)

    def hurry(self, directory: Path, names: Collection[str]) -> Collection[str]:
        """Try files now that wait for another attempt."""
        pending = self._pending.get(directory)
        return () if pending is None else trio.from_thread.run_sync(pending.hurry, names)

    def note_rules(self, spool: Spool, nodes: Collection[str]) -> None:
        """Set files of these nodes aside as they arrive."""
        for line in self._lines:
            if line.spool.directory == spool.directory:
                trio.from_thread.run_sync(line.aside.note_nodes, nodes)


def _attempts(pending: Pending) -> dict[str, Attempt]:
    return {
        name: Attempt(in_flight, failed, None if in_flight else round(due, 3))
        for name, (in_flight, failed, due) in pending.attempts().items()
    }


class Steering:
    """Operations on the queue, one at a time.

    Attributes:
        spools: of this relayd.
        retry_all: tries everything again now, also the outputs.

    Args:
        lines: its watched directories.
        nodes: returns the nodes in force.
    """

    def __init__(
        self,
        spools: Sequence[Spool],
        lines: Sequence[Line],
        nodes: Callable[[], Nodes],
        retry_all: Callable[[], None],
    ) -> None:
        self.spools = spools
        self.retry_all = retry_all
        self._lines = Lines(lines)
        self._nodes = nodes
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, work: Callable[[Queue], T]) -> T:
        """Do some work with the queue in a thread.

        A caller who disconnects does not end it: what was begun is finished, and logged.

        Raises:
            RelaydError: it cannot be done, or takes longer than `OPERATION_S`.
        """
        async with self._lock:
            self._lines.begin()
            with trio.move_on_after(OPERATION_S, shield=True):
                do = partial(self._work, work, self._nodes())
                return await in_thread(do, limiter=self._limiter)
        raise RelaydError(f"not all files were done within {OPERATION_S:g} s; try again")

    def _work(self, work: Callable[[Queue], T], nodes: Nodes) -> T:
        queue = Queue(self.spools, nodes.hostnames(), nodes.relay_of, find_nodes, self._lines)
        return work(queue)
