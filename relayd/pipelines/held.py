"""Run logs that the tables refuse although nothing is wrong with them; they wait in the spool."""

from collections.abc import Sequence
from typing import Final

import trio

from relayd.errors import Retry
from relayd.outputs.results import Stored, Written
from relayd.runlog.model import RunLog
from relayd.system.delays import DELAYS

#: A run log that was not retried for this long, seconds, is gone: expired, or removed by hand.
FORGOTTEN_S: Final = 2 * DELAYS.file.longest
#: Run logs that are remembered, 200 bytes each.
REMEMBERED: Final = 10_000


class Held:
    """The run logs that wait for the tables, by node and START.

    Attributes:
        detail: why the first of them was refused.
    """

    def __init__(self) -> None:
        self.detail = ""
        self._since: dict[tuple[str, str], float] = {}
        self._released = True

    def __len__(self) -> int:
        """Return how many wait, as far as is known."""
        too_old = trio.current_time() - FORGOTTEN_S
        self._since = {run: time for run, time in self._since.items() if time > too_old}
        return len(self._since)

    def holds(self, run_log: RunLog) -> bool:
        """Return whether this run log was refused before, and waits."""
        return (run_log.node_id, run_log.start) in self._since

    def note(self, run_logs: Sequence[RunLog], outcomes: Sequence[Written]) -> bool:
        """Note what became of run logs.

        Returns:
            Whether one that had to wait went in, the first since others had to: all that wait
            are worth another attempt.
        """
        passed = False
        for run_log, outcome in zip(run_logs, outcomes, strict=True):
            run = run_log.node_id, run_log.start
            if isinstance(outcome, Retry):
                self._hold(run, outcome.detail)
            elif self._since.pop(run, None) is not None:
                passed |= isinstance(outcome, Stored)
        released, self._released = self._released, self._released or passed
        return passed and not released

    def _hold(self, run: tuple[str, str], detail: str) -> None:
        if not self._since:
            self.detail = detail
        self._released = False
        if run in self._since or len(self._since) < REMEMBERED:
            self._since[run] = trio.current_time()
