"""What the fleet uploads, until enough is sent and relayd has processed all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from relayd.commands.demo.fleet.agents import Fleet
from relayd.commands.demo.fleet.delivery import Delivery
from relayd.commands.demo.ledger import Ledger

#: Nodes that upload at the same time.
_AT_ONCE: Final = 8
_SETTLE_POLL: Final = 0.05
#: Stop waiting when nothing was processed for this long, in seconds; what waits counts as left.
_SETTLE_DEADLINE: Final = 30.0


@dataclass
class Feed:
    """The uploads of a demo.

    Attributes:
        rate: run logs per second of the whole fleet; None: as fast as possible.
        once: stop after this many uploads; None: go on until `stop`.
        fleet: makes them.
        delivery: sends them.
        ledger: records them.
        spools: the `incoming` directories, bottom up.
        stop: ends the uploads.
    """

    rate: float | None
    once: int | None
    fleet: Fleet
    delivery: Delivery
    ledger: Ledger
    spools: Sequence[Path]
    stop: trio.Event

    def __post_init__(self) -> None:
        self._slots = trio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Upload at the requested rate until enough is sent or a stop is requested.

        Raises:
            StartError: relayd has no disk space, or refuses uploads.
        """
        async with trio.open_nursery() as runs:
            await self._start_runs(runs)

    async def _start_runs(self, runs: trio.Nursery) -> None:
        period = 1 / self.rate if self.rate else 0.0
        due = trio.current_time()
        while self._has_more(self.fleet.owed) and not self.stop.is_set():
            with trio.move_on_at(due):
                await self.stop.wait()
                return
            await self._start_run(runs)
            # After a delay, catch up on at most one second of uploads.
            due = max(due + period, trio.current_time() - 1.0)

    async def _start_run(self, runs: trio.Nursery) -> None:
        upload = await trio.to_thread.run_sync(self.fleet.next_upload, datetime.now(UTC))
        self.ledger.add(upload)
        self.delivery.add(upload)
        await self._slots.acquire()
        runs.start_soon(self._run_node, upload.node_id, name="agent run")

    async def _run_node(self, node_id: str) -> None:
        try:
            await self.delivery.run_node(node_id)
        finally:
            self._slots.release()

    def _has_more(self, reserved: int) -> bool:
        return self.once is None or self.ledger.sent + reserved < self.once

    async def finish(self) -> None:
        """Wait until everything is processed, replays included that had to wait for that.

        Raises:
            StartError: as of `run`.
        """
        await self._settle()
        async with trio.open_nursery() as runs:
            while self.once and self._has_more(0) and not self.stop.is_set():
                await self._start_run(runs)
        await self._settle()

    async def _settle(self) -> None:
        """Let all nodes send what they kept; wait for relayd as long as less and less is left."""
        least, deadline = None, trio.current_time() + _SETTLE_DEADLINE
        while left := await self._left():
            if least is None or left < least:
                least, deadline = left, trio.current_time() + _SETTLE_DEADLINE
            if trio.current_time() > deadline:
                return
            await trio.sleep(_SETTLE_POLL)

    async def _left(self) -> int:
        await self.delivery.run_all()
        # Bottom up: a relay removes a file only after it is in the spool of the server above.
        waiting = await trio.to_thread.run_sync(count_files, self.spools)
        return len(self.delivery.names) + waiting


def count_files(directories: Sequence[Path]) -> int:
    """Return the number of files in directories, in their order; blocks."""
    return sum(1 for directory in directories for _ in directory.iterdir())
