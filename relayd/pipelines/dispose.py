"""The dispose stage: what became of a file decides whether it is removed, moved or left.

Files are touched by `relayd.spool.disposal`, a whole batch in one thread call; what was done is
accounted for here: the table of names in flight, one log line for each file that did not
succeed, and what `relayd.pipelines.outcomes` counts.
"""

import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from relayd.errors import Reason, Refused, Retry
from relayd.outputs.results import Done
from relayd.pipelines.outcomes import Accounts
from relayd.pipelines.ticket import Ticket, Verdict
from relayd.spool.disposal import Disposal, Rejected
from relayd.spool.pending import Pending
from relayd.system.clock import WallClock
from relayd.telemetry.logs import get_logger

#: An operator looks for each single file: its lines are not summed up when there are many.
log = get_logger("disposal", limited=False)


class Rules(msgspec.Struct, frozen=True):
    """What the configuration says about files that do not succeed.

    Attributes:
        settle_s: a file written in place is not refused for being cut short before it has been
            untouched for this long, seconds.
        retention_s: a file that cannot be processed for longer than this is given up, seconds.
    """

    settle_s: float
    retention_s: float


class Disposer:
    """The dispose stage of one watched directory."""

    def __init__(
        self,
        disposal: Disposal,
        pending: Pending,
        rules: Rules,
        accounts: Accounts,
        trust_token: Callable[[str], str],
        clock: WallClock,
    ) -> None:
        self._disposal = disposal
        self._pending = pending
        self._rules = rules
        self._accounts = accounts
        self._trust_token = trust_token
        self._clock = clock

    async def run(self, source: trio.MemoryReceiveChannel[list[Ticket]]) -> None:
        """Dispose of what arrives; ends with its source, which it owns."""
        with source:
            async for tickets in source:
                await self.dispose(tickets)

    async def dispose(self, tickets: Sequence[Ticket]) -> None:
        """Dispose of one batch. Every ticket's name is released or put back."""
        now = time.time()
        removals: list[Ticket] = []
        rejections: list[Ticket] = []
        for ticket in tickets:
            ticket.verdict = self._reconsider(ticket, now)
            if isinstance(ticket.verdict, Done):
                removals.append(ticket)
            elif isinstance(ticket.verdict, Refused):
                rejections.append(ticket)
            elif isinstance(ticket.verdict, Retry):
                self._put_back(ticket, ticket.verdict)
            else:
                log.debug("file is gone", **ticket.describe())
                self._pending.release(ticket.name)
        if removals:
            await self._remove(removals)
        if rejections:
            await self._reject(rejections)

    def _reconsider(self, ticket: Ticket, now: float) -> Verdict:
        """Return a refused file may still be being written; one put off for too long is given up."""
        verdict = ticket.verdict
        if isinstance(verdict, Refused) and verdict.maybe_unfinished and not ticket.atomic:
            age = _age(ticket, now)
            if age is not None and 0 <= age < self._rules.settle_s:
                ticket.settles_in = self._rules.settle_s - age
                return Retry(f"perhaps not finished yet: {verdict.detail}")
        if isinstance(verdict, Retry) and verdict.attempted:
            age = _age(ticket, now)
            if age is not None and age > self._rules.retention_s and self._clock.is_trusted():
                return Refused(Reason.EXPIRED, f"waited longer than allowed; {verdict.detail}")
        return verdict

    def _put_back(self, ticket: Ticket, retry: Retry) -> None:
        self._accounts.put_off(ticket, retry)
        self._pending.retry(ticket.name, floor=ticket.settles_in)
        log.warning("file stays, tried again later", detail=retry.detail, **ticket.describe())

    async def _remove(self, tickets: Sequence[Ticket]) -> None:
        files = [(t.name, t.identity) for t in tickets if t.identity is not None]
        results = await self._disposal.remove(files)
        now = trio.current_time()
        for ticket, result in zip(tickets, results, strict=True):
            if isinstance(result, Retry):
                self._pending.retry(ticket.name)
                log.debug("committed file stays", detail=result.detail, **ticket.describe())
            else:
                self._pending.release(ticket.name)
            assert isinstance(ticket.verdict, Done)
            if not ticket.verdict.again:
                self._accounts.done(ticket, now)
            if result == "changed":
                self._look_again(ticket)

    def _look_again(self, ticket: Ticket) -> None:
        """The name holds a newer file; its event came while this one was in flight, or comes."""
        if ticket.name not in self._pending and self._pending.claim(ticket.name):
            self._pending.retry(ticket.name)
        log.debug("a newer file has taken the name", **ticket.describe())

    async def _reject(self, tickets: Sequence[Ticket]) -> None:
        # No await between this look at the nodes and the call for the thread that moves files:
        # a reload looks for what it cures in `failed` either before both or after both.
        refused = [ticket for ticket in tickets if not self._is_outdated(ticket)]
        files = [_rejected(ticket) for ticket in refused]
        results = await self._disposal.quarantine(files)
        for ticket, file, result in zip(refused, files, results, strict=True):
            if isinstance(result, Retry):
                self._put_back(ticket, Retry(f"cannot be moved to failed: {result.detail}"))
                continue
            self._pending.release(ticket.name)
            if result == "changed":
                self._look_again(ticket)
            elif result != "gone":
                self._accounts.refused(ticket, file.refused)

    def _is_outdated(self, ticket: Ticket) -> bool:
        """Put a file back that was judged by what is no longer known of its node."""
        outdated = ticket.trust not in ("", self._trust_token(ticket.node_id))
        if outdated:
            self._put_back(ticket, Retry("what is known of its node changed meanwhile"))
        return outdated


def _rejected(ticket: Ticket) -> Rejected:
    assert isinstance(ticket.verdict, Refused)
    return Rejected(ticket.name, ticket.identity, ticket.verdict, ticket.node_id, ticket.trust)


def _age(ticket: Ticket, now: float) -> float | None:
    """Return seconds since the file was last written to, None where nothing was read."""
    return None if ticket.identity is None else now - ticket.identity.mtime_ns / 1e9
