"""The forward stage: files go to the upstream, parcel by parcel."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from relayd.errors import Gone, Refused, Retry
from relayd.outputs.health import Trouble
from relayd.outputs.results import Forwarded
from relayd.outputs.upstream.gate import Attempt, Gate
from relayd.outputs.upstream.uploads import Route, Upstream
from relayd.pipelines.parcels import Parcel
from relayd.pipelines.ticket import (
    Behind,
    Finished,
    Postponed,
    Settled,
    Ticket,
    Vanished,
    unfinished,
)
from relayd.spool.identity import Identity
from relayd.spool.pending import Pending
from relayd.spool.reading import SpoolFile, open_spool_file
from relayd.system.shortage import words_of

#: Threads that read files of one directory.
READERS: Final = 4
#: While the gate is closed, files that failed before occupy at most half of the lanes; the others
#: of them are put back for this many seconds.
GIVE_WAY_S: Final = 5.0


class Forwarder:
    """The forward stage of one watched directory; several lanes may run it at once.

    Args:
        directory: the watched directory.
        route: the kind of its files.
        upstream: where they go.
        gate: asked before each upload.
        pending: the files that failed before, and those that wait for another attempt.
        lanes: how many run it.
        committed: returns whether this very file was sent already and only has to be removed.
    """

    def __init__(
        self,
        directory: Path,
        route: Route,
        upstream: Upstream,
        gate: Gate,
        pending: Pending,
        lanes: int,
        committed: Callable[[str, Identity], bool],
    ) -> None:
        self._directory = directory
        self._route = route
        self._upstream = upstream
        self._gate = gate
        self._pending = pending
        self._half = lanes // 2
        self._committed = committed
        self._limiter = trio.CapacityLimiter(READERS)

    async def run(
        self,
        parcels: trio.MemoryReceiveChannel[Parcel],
        settled: trio.MemorySendChannel[Settled],
    ) -> None:
        """Send what arrives; end with the source. Owns both channel ends."""
        with parcels, settled:
            async for parcel in parcels:
                for file in await self._forward(parcel):
                    await settled.send(file)

    async def _forward(self, parcel: Parcel) -> list[Settled]:
        """Forward a parcel; unless all of it could be sent, none of it leaves the spool."""
        if self._gives_way(parcel):
            for ticket in parcel:
                self._pending.wait(ticket.name, GIVE_WAY_S)
            return []
        files: list[Settled] = []
        for ticket in parcel:
            file = await self._forward_one(ticket)
            files.append(file)
            if isinstance(file, Postponed):
                unopened = parcel[len(files) :]
                return [
                    *(_postpone(other.ticket, _identity(other), file) for other in files),
                    *(_postpone(other, None, file) for other in unopened),
                ]
        return files

    def _gives_way(self, parcel: Parcel) -> bool:
        """Return whether files that failed before would take the lanes from all others."""
        return self._gate.is_full_of_retries(self._half) and any(
            self._pending.has_failed(ticket.name) for ticket in parcel
        )

    async def _forward_one(self, ticket: Ticket) -> Settled:
        """Try until the upstream could be asked: that it is away says nothing about the file."""
        retried = self._pending.has_failed(ticket.name)
        while (attempt := await self._gate.enter(retried=retried)) is not None:
            with self._gate.using(attempt):
                file = await self._try(ticket, attempt)
            if attempt.trouble is None or attempt.trouble.reached:
                if isinstance(file, Finished):
                    self._pending.let_follow(ticket.name)
                return file
        retry = Retry(f"relayd stops; {_detail(self._gate.trouble)}", attempted=False)
        return Postponed(ticket, None, retry, "forward")

    async def _try(self, ticket: Ticket, attempt: Attempt) -> Settled:
        path = f"{self._directory}/{ticket.name}"
        identity, opened = await open_spool_file(path, self._limiter)
        if not isinstance(opened, SpoolFile):
            return _unfinished(ticket, identity, opened)
        try:
            if self._committed(ticket.name, opened.identity):
                return Finished(ticket, opened.identity, Forwarded(again=True))
            trouble = await self._upstream.put(self._route, ticket.name, opened)
        except OSError as error:
            return _unfinished(ticket, identity, Retry(f"cannot be read: {words_of(error)}"))
        finally:
            opened.close()
        attempt.end(trouble)
        if trouble is None:
            return Finished(ticket, opened.identity, Forwarded())
        return Postponed(ticket, identity, Retry(trouble.detail), "forward", wait=trouble.wait)


def _postpone(ticket: Ticket, identity: Identity | None, cause: Postponed) -> Postponed:
    return Postponed(ticket, identity, cause.retry, cause.stage, wait=cause.wait)


def _identity(file: Settled) -> Identity | None:
    return None if isinstance(file, Vanished | Behind) else file.identity


def _unfinished(
    ticket: Ticket, identity: Identity | None, verdict: Refused | Retry | Gone
) -> Settled:
    return unfinished(ticket, identity, verdict, "forward")


def _detail(trouble: Trouble | None) -> str:
    return "" if trouble is None else trouble.detail
