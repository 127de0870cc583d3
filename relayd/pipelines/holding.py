"""Committed run logs are kept for a while, and processed again if the database may have lost them.

A primary with asynchronous standbys confirms what a failover takes back. The rows of a kept file
are looked up once the database turns out to be another server, to have been restarted, to follow
another timeline or to be behind; what is missing is stored again.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

from relayd.config.main_conf import Settings
from relayd.errors import DatabaseError
from relayd.outputs.results import HeldFiles, RunLogStore
from relayd.pipelines.outcomes import Repeats
from relayd.spool.kept import KeepRules, Kept
from relayd.spool.layout import INCOMING, Spool
from relayd.spool.pending import Pending
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("database")

#: Files that are processed again at the same time: their names are remembered, 200 bytes each.
OFFERED: Final = 2000
#: Seconds until more of them follow.
OFFER_S: Final = 0.25
#: Seconds between two warnings about files that are removed too early.
WARN_S: Final = 60.0
#: Seconds between two attempts with what is left of an earlier hold that is off now.
IDLE_S: Final = 10.0


def make_kept(settings: Settings, spool: Spool) -> Kept | None:
    """Return the store of kept files; None if none are kept, or left from before."""
    own = settings.output.database
    if not spool.keeps and not spool.held.is_dir():
        return None
    rules = KeepRules(own.hold, own.hold_max_files, own.hold_max_size)
    return Kept(spool.held, spool.directory / INCOMING, rules)


class Holding:
    """Releases kept files after their time, or offers them again.

    Args:
        store: knows where in its history the database is.
        kept: the files.
        repeats: counts what becomes of files that are offered again.
        pending: the names in flight.
        metrics: gets the numbers.
    """

    def __init__(
        self, store: RunLogStore, kept: Kept, repeats: Repeats, pending: Pending, metrics: Metrics
    ) -> None:
        self._store = store
        self._kept = kept
        self._repeats = repeats
        self._pending = pending
        self._metrics = metrics
        #: What is left of a hold that is off now is offered again, and then removed.
        self._off = not kept.rules.hold_s
        self._pause = IDLE_S if self._off else kept.rules.slice_s
        self._early = 0
        self._unreported = 0
        self._may_warn_at = -math.inf
        #: The counts when files began to be offered; None while none are.
        self._before: tuple[int, int] | None = None
        metrics.held_files.set_function(lambda: kept.files)
        metrics.held_bytes.set_function(lambda: kept.size)

    def numbers(self) -> HeldFiles:
        """Return what the status shows."""
        repeats, kept = self._repeats, self._kept
        return HeldFiles(kept.files, kept.size, repeats.replayed, repeats.missing, self._early)

    async def run(self) -> None:
        """Look after the files until cancelled, or until none is left of a hold that is off."""
        found = False
        pause, before = OFFER_S, (0, 0)
        while not (found and self._off and not self._kept.files and not self._kept.offered):
            found = found or await self._attempt(self._kept.find)
            await self._look()
            left = self._kept.files, len(self._kept.offered)
            # Files that are offered may have to wait for the database, or for an operator.
            pause = OFFER_S if left != before else min(2 * pause, self._pause)
            before = left
            with trio.move_on_after(self._pause if self._before is None else pause):
                await self._store.moved.wait()

    async def _look(self) -> None:
        kept = self._kept
        located = bool(kept.files) and not self._off and await self._locate()
        waiting = kept.files if self._off else kept.doubtful
        if waiting or kept.offered:
            self._note_begin(waiting)
            await self._attempt(self._offer)
        elif self._before is not None:
            self._note_end(*self._before)
        if located:
            await self._attempt(kept.release)
        self._note_early()

    async def _locate(self) -> bool:
        """Ask where the database is; return whether it answered."""
        try:
            self._kept.at = await self._store.locate()
        except DatabaseError:
            return False
        return True

    def _offer(self) -> None:
        kept = self._kept
        kept.forget_offered(self._pending.__contains__)
        free = OFFERED - len(kept.offered)
        if free > OFFERED // 2:
            kept.offer(free, everything=self._off)

    async def _attempt(self, action: Callable[[], object]) -> bool:
        """Do something with the files; return whether it worked, else it is repeated soon."""
        try:
            await in_thread(action)
        except OSError as error:
            log.warning(
                "held files cannot be used for now",
                file=str(error.filename),
                detail=words_of(error),
            )
            return False
        return True

    def _note_begin(self, files: int) -> None:
        if self._before is None:
            self._before = self._repeats.replayed, self._repeats.missing
            log.warning("the database may have lost commits; processing again", files=files)

    def _note_end(self, replayed: int, missing: int) -> None:
        self._before = None
        replayed, missing = self._repeats.replayed - replayed, self._repeats.missing - missing
        log.info("held run logs were processed again", files=replayed, missing=missing)

    def _note_early(self) -> None:
        early = self._kept.take_early()
        self._early += early
        self._metrics.held_released_early.inc(early)
        self._unreported += early
        now = trio.current_time()
        if self._unreported and now >= self._may_warn_at:
            self._may_warn_at = now + WARN_S
            log.warning("too many held files; the oldest were removed", files=self._unreported)
            self._unreported = 0
