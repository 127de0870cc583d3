"""The dispose stage: the outcome of a file decides whether it is removed, moved or left.

Files are touched by `relayd.spool.disposal`, a whole batch in one thread call. Here are the table
of names in flight, one log line for each file without success, and the calls of
`relayd.pipelines.outcomes`.
"""

import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from relayd.errors import Reason, Refused, Retry
from relayd.pipelines.outcomes import Outcomes
from relayd.pipelines.ticket import (
    Behind,
    Failed,
    Finished,
    Postponed,
    Settled,
    Ticket,
    Vanished,
)
from relayd.spool.disposal import Disposal, RefusedFile
from relayd.spool.identity import Identity
from relayd.spool.pending import Pending
from relayd.system.clock import WallClock
from relayd.telemetry.logs import Limit, get_logger

#: An operator looks for each single file, so its lines are not summed up when there are many.
log = get_logger("disposal", Limit.NONE)


class DisposalRules(msgspec.Struct, frozen=True):
    """What the configuration says about files without success.

    Attributes:
        settle_s: a file written in place is not refused for being cut short before it has been
            untouched for this long, seconds.
        retention_s: a file that cannot be processed for longer than this is given up, seconds.
    """

    settle_s: float
    retention_s: float


class DisposeStage:
    """The dispose stage of one watched directory.

    Args:
        disposal: touches the files.
        pending: the names in flight.
        rules: for files without success.
        outcomes: counts and logs.
        trust_token: returns the present trust token of a node.
        clock: judges whether ages can be trusted.
    """

    def __init__(
        self,
        disposal: Disposal,
        pending: Pending,
        rules: DisposalRules,
        outcomes: Outcomes,
        trust_token: Callable[[str], str],
        clock: WallClock,
    ) -> None:
        self._disposal = disposal
        self._pending = pending
        self._rules = rules
        self._outcomes = outcomes
        self._trust_token = trust_token
        self._clock = clock

    async def run(self, source: trio.MemoryReceiveChannel[list[Settled]]) -> None:
        """Dispose of what arrives; end with the source, which it owns."""
        with source:
            async for files in source:
                await self.dispose(files)

    async def dispose(self, files: Sequence[Settled]) -> None:
        """Dispose of one batch. Every name is released or put back."""
        now = time.time()
        finished: list[Finished] = []
        failed: list[Failed] = []
        for file in files:
            match self._reconsider(file, now):
                case Finished() as file:
                    finished.append(file)
                case Failed() as file:
                    failed.append(file)
                case Postponed() as file:
                    self._put_back(file)
                case Vanished(ticket):
                    log.debug("file is gone", **ticket.describe())
                    self._pending.release(ticket.name)
                case Behind(ticket):
                    log.debug("file is put back, to be taken up in its turn", **ticket.describe())
                    self._pending.put_back(ticket.name)
        if finished:
            await self._remove(finished)
        if failed:
            await self._refuse(failed)

    def _reconsider(self, file: Settled, now: float) -> Settled:
        """Hold a refused file that may still be being written; give up one that waited too long."""
        if isinstance(file, Failed) and file.refused.maybe_unfinished and not file.ticket.atomic:
            age = _age(file.identity, now)
            if age is not None and 0 <= age < self._rules.settle_s:
                retry = Retry(f"perhaps not finished yet: {file.refused.detail}")
                wait = self._rules.settle_s - age
                return Postponed(file.ticket, file.identity, retry, file.stage, wait=wait)
        if isinstance(file, Postponed) and file.retry.attempted:
            age = _age(file.identity, now)
            if age is not None and age > self._rules.retention_s and self._clock.is_trusted():
                detail = f"waited longer than allowed; {file.retry.detail}"
                expired = Refused(Reason.EXPIRED, detail)
                return Failed(file.ticket, file.identity, expired, file.stage, wait=file.wait)
        return file

    def _put_back(self, file: Postponed) -> None:
        retry = file.retry
        self._outcomes.postponed(file)
        self._pending.retry(file.ticket.name, floor=file.wait, alone=file.alone)
        log.warning("file stays; will be retried", detail=retry.detail, **file.ticket.describe())

    def _postpone(self, file: Failed, retry: Retry) -> None:
        self._put_back(Postponed(file.ticket, file.identity, retry, file.stage, wait=file.wait))

    async def _remove(self, files: Sequence[Finished]) -> None:
        results = await self._disposal.remove(
            [(f.ticket.name, f.identity) for f in files], [f.done.point for f in files]
        )
        now = trio.current_time()
        for file, result in zip(files, results, strict=True):
            ticket = file.ticket
            self._pending.shares.note_size(ticket.name, file.identity.size)
            if isinstance(result, Retry):
                self._pending.retry(ticket.name)
                log.debug("committed file stays", detail=result.detail, **ticket.describe())
            else:
                self._pending.release(ticket.name)
            if not file.done.again:
                self._outcomes.finished(file, now)
            if result == "changed":
                self._queue_newer(ticket)

    def _queue_newer(self, ticket: Ticket) -> None:
        """Queue the newer file that has taken the name.

        Its event came while the old one was in flight, or is still to come.
        """
        if ticket.name not in self._pending and self._pending.claim(ticket.name):
            self._pending.retry(ticket.name)
        log.debug("a newer file has taken the name", **ticket.describe())

    async def _refuse(self, files: Sequence[Failed]) -> None:
        # No await between this check of the nodes and the call of the thread that moves files:
        # a reload looks for retryable files in `failed` either before both or after both.
        files = [file for file in files if not self._is_outdated(file)]
        results = await self._disposal.quarantine([_refused_file(file) for file in files])
        for file, result in zip(files, results, strict=True):
            if file.identity is not None:
                self._pending.shares.note_size(file.ticket.name, file.identity.size)
            if isinstance(result, Retry):
                self._postpone(file, Retry(f"cannot be moved to failed: {result.detail}"))
                continue
            self._pending.release(file.ticket.name)
            if result == "changed":
                self._queue_newer(file.ticket)
            elif result != "gone":
                self._outcomes.failed(file)

    def _is_outdated(self, file: Failed) -> bool:
        """Put a file back that was judged by what has changed about its node since."""
        origin = file.ticket.origin
        outdated = origin is not None and origin.trust != self._trust_token(origin.node_id)
        if outdated:
            self._postpone(file, Retry("the nodes list or the certificates changed meanwhile"))
        return outdated


def _refused_file(file: Failed) -> RefusedFile:
    origin = file.ticket.origin
    node_id, trust = ("", "") if origin is None else (origin.node_id, origin.trust)
    trust = file.refused.judged_by or trust
    return RefusedFile(file.ticket.name, file.identity, file.refused, node_id, trust)


def _age(identity: Identity | None, now: float) -> float | None:
    """Return seconds since the file was last written to, None where nothing was read."""
    return None if identity is None else now - identity.mtime_ns / 1e9
