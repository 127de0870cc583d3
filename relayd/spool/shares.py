"""How much of a pipeline one node may occupy: whatever it sends, the others get on.

A flood of small files is divided by the turns that nodes take. Large ones are what takes long, each
of them, so a node may have only some of them in flight.
"""

from collections.abc import Callable
from math import inf
from typing import Final

from relayd.runlog.filename import run_of

#: Bytes of one node's large run logs in flight at most, or one that is larger: what is verified in
#: less than a second, and enough for several workers.
NODE_BYTES: Final = 32 * 2**20
#: Smaller ones are not counted: not even hundreds of them take long.
LARGE: Final = 256 * 1024
#: Nodes of which it is remembered at most that their last file was a large one.
LARGE_NODES: Final = 10_000
#: By how much a packed run log is expected to grow; agents' ones shrink to a tenth.
PACKED: Final = 8


def run_log_node(name: str) -> str:
    """Return the node in the name of a run log, "" if there is none."""
    run = run_of(name)
    return "" if run is None else run[0]


class Shares:
    """The files in flight by node, and which nodes may have no more of them.

    Attributes:
        waiting: nodes of which files wait for others to leave; kept by the watcher.
        freed: those of them that may have another one; emptied by the watcher.

    Args:
        node_of: returns the node in a name, "" if there is none.
        files: of one node at most.
        no_node: files whose names give no node at most: they may all come from one.
        size: bytes of the large files of one node at most.
    """

    def __init__(
        self,
        node_of: Callable[[str], str] = run_log_node,
        *,
        files: float = inf,
        no_node: float = inf,
        size: float = inf,
    ) -> None:
        self.node_of = node_of
        self.waiting: set[str] = set()
        self.freed: set[str] = set()
        self._files = files
        self._no_node = no_node
        self._size = size
        #: Whether small files count, too.
        self._counted = files < inf or no_node < inf
        #: Node and size of each file in flight.
        self._in_flight: dict[str, tuple[str, int]] = {}
        self._counts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        #: Sizes of large files of the last listing, and of each node's last file if it was large.
        self._listed: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def note_listed(self, sizes: dict[str, int]) -> None:
        """Replace the sizes of the last listing, bytes by name."""
        if self._size < inf:
            weights = ((name, _weight(name, size)) for name, size in sizes.items())
            self._listed = {name: weight for name, weight in weights if weight}

    def note_size(self, name: str, size: int) -> None:
        """Note the size of a file in flight: the next one of its node may be as large."""
        weight = _weight(name, size) if self._size < inf else 0
        if not (weight or self._last):
            return
        node = self.node_of(name)
        if not weight:
            self._last.pop(node, None)
        elif node in self._last or len(self._last) < LARGE_NODES:
            self._last[node] = weight

    def take(self, name: str) -> None:
        """Count a file that is in flight now."""
        if not (self._counted or self._listed or self._last):
            return
        node = self.node_of(name)
        size = self._listed.get(name) or self._last.get(node, 0)
        self._in_flight[name] = node, size
        self._counts[node] = self._counts.get(node, 0) + 1
        if size:
            self._sizes[node] = self._sizes.get(node, 0) + size

    def give_back(self, name: str) -> None:
        """Count a file no longer; without effect if it is not counted."""
        file = self._in_flight.pop(name, None)
        if file is None:
            return
        node, size = file
        self._free(node)
        self._subtract(self._counts, node, 1)
        if size:
            self._subtract(self._sizes, node, size)

    def pass_on(self, name: str) -> None:
        """Let another file of its node follow, because this one is not taken."""
        self._free(self.node_of(name))

    def _free(self, node: str) -> None:
        if node in self.waiting:
            self.freed.add(node)

    @staticmethod
    def _subtract(numbers: dict[str, int], node: str, number: int) -> None:
        numbers[node] -= number
        if not numbers[node]:
            del numbers[node]

    def left(self, node: str) -> float:
        """Return how many files of a node may follow now; 0 while it has its share in flight."""
        if self._sizes.get(node, 0) >= self._size:
            return 0
        most = self._files if node else self._no_node
        return max(0, most - self._counts.get(node, 0))


def _weight(name: str, size: int) -> int:
    """Return the expected size of what has to be read of a file; 0 if it is not large."""
    size *= PACKED if name.endswith((".gz", ".zip")) else 1
    return size if size >= LARGE else 0
