"""Which run logs must wait for an older one of their node.

The web application takes the run that was inserted last for a node's present state, so the runs
of a node are processed in the order of their dates. A run log that is put off for another attempt
holds up the newer ones of its node, but not for ever: some reasons last for days. While the output
itself is not available, no run log is at fault, and the order is kept until it is back.
"""

from math import inf
from typing import Final

import trio

from relayd.runlog.filename import run_of

#: Run logs of a node hold up newer ones for this long after the first of them failed, however many
#: of them fail; then the order is given up until none of these is left.
HOLD_S: Final = 60.0


class Holds:
    """The run logs that hold up newer ones of their node.

    Attributes:
        freed: nodes of which a run log no longer waits; emptied by the watcher.
        outage: whether the output is away.
        kept: names that hold up newer ones until they have reached the output again.
    """

    def __init__(self) -> None:
        self.freed: set[str] = set()
        self.kept: set[str] = set()
        self.outage = False
        self._outage_began = 0.0
        self._failed: dict[str, set[str]] = {}
        self._began: dict[str, float] = {}
        self._by_node: dict[str, dict[str, tuple[float, float]]] = {}

    def add(self, name: str) -> None:
        """Let this run log hold up newer ones, unless they have waited for too long."""
        run = run_of(name)
        if run is None:
            return
        node, date = run
        self._failed.setdefault(node, set()).add(name)
        until = self._began.setdefault(node, trio.current_time()) + HOLD_S
        if self.outage or until > trio.current_time():
            self._by_node.setdefault(node, {})[name] = date, until

    def keep(self, name: str) -> None:
        """Let newer ones wait, those in flight too, until `reach` is called for this run log."""
        self.forget(name)
        self.add(name)
        self.kept.add(name)

    def reach(self, name: str) -> None:
        """Let newer ones follow a run log that has reached the output."""
        if name in self.kept:
            self.kept.remove(name)
            self.lift(name)

    @property
    def outage_s(self) -> float:
        """Seconds since the output went away; 0 while it is not."""
        return trio.current_time() - self._outage_began if self.outage else 0.0

    def begin_outage(self) -> None:
        """Let all that failed hold up newer ones until the outage ends."""
        self.outage = True
        self._outage_began = trio.current_time()
        self._hold_all()

    def end_outage(self) -> set[str]:
        """Let newer ones wait for no longer than usual from now on.

        Returns:
            The names that are worth an attempt now; none after a short outage, which a few files
            that always fail may be the cause of, time and again.
        """
        lasted, self.outage = self.outage_s, False
        self.freed.update(self._by_node)
        if lasted < HOLD_S:
            return set()
        self._began = dict.fromkeys(self._began, trio.current_time())
        self._hold_all()
        return {name for names in self._by_node.values() for name in names}

    def _hold_all(self) -> None:
        for node, names in self._failed.items():
            until = self._began[node] + HOLD_S
            for name in names:
                if (run := run_of(name)) is not None:
                    self._by_node.setdefault(node, {})[name] = run[1], until

    def lift(self, name: str) -> None:
        """Let newer ones follow: it is on its way, or was sent."""
        if not self._by_node:
            return
        run = run_of(name)
        if run is None or name not in (held := self._by_node.get(run[0], {})):
            return
        del held[name]
        if not held:
            del self._by_node[run[0]]
        self.freed.add(run[0])

    def forget(self, name: str) -> None:
        """Forget a run log that is no longer in the spool, or not remembered."""
        self.kept.discard(name)
        if not self._failed:
            return
        self.lift(name)
        run = run_of(name)
        if run is None or name not in (failed := self._failed.get(run[0], set())):
            return
        failed.remove(name)
        if not failed:
            del self._failed[run[0]], self._began[run[0]]

    def clear(self) -> None:
        """Forget all of them."""
        self.kept.clear()
        self.freed.update(self._by_node)
        self._by_node.clear()
        self._failed.clear()
        self._began.clear()

    def until(self, node: str, date: float) -> float:
        """Return the Trio time until which a run must wait for older ones; 0 if it need not."""
        held = self._by_node.get(node)
        if not held:
            return 0.0
        until = max((end for older, end in held.values() if older < date), default=0.0)
        if self.outage and until:
            return inf
        return until if until > trio.current_time() else 0.0
