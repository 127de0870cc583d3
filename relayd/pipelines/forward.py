"""The forward stage: files go to the upstream, parcel by parcel, or run logs one by one.

Run logs are read ahead, many in one thread call. What was read is only used if the gate has been
open ever since: a file that has to wait is opened again when its turn comes.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

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
from relayd.spool.reading import Opened, SpoolFile, open_spool_file, open_spool_files
from relayd.spool.watching.watcher import Arrival
from relayd.system.shortage import words_of
from relayd.system.wake import Wake

#: Threads that read files of one directory.
READERS: Final = 4
#: While the gate is closed, files that failed before occupy at most half of the lanes; the others
#: of them are put back for this many seconds.
GIVE_WAY_S: Final = 5.0
#: Run logs read ahead at once, and how many of them are left when the next ones are read. Files up
#: to 64 KiB are kept in memory meanwhile: 2 MiB at most, 0.6 MiB of usual ones.
AHEAD: Final = 24
AHEAD_LOW: Final = 8
AHEAD_MOST: Final = AHEAD + AHEAD_LOW


class Ahead(NamedTuple):
    """A run log that was read ahead.

    Attributes:
        ticket: the file.
        opened: it, or why it cannot be read.
        generation: of the gate when it was read.
    """

    ticket: Ticket
    opened: Opened
    generation: int


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
        self._ahead = 0
        self._few_left = Wake()
        self._few_left.set()

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

    async def run_ahead(
        self,
        arrivals: trio.MemoryReceiveChannel[Arrival],
        ready: trio.MemorySendChannel[Ahead],
    ) -> None:
        """Read run logs before their turn; end with the source. Owns both channel ends.

        Args:
            arrivals: their names.
            ready: the files; a channel with a buffer of `AHEAD_MOST`.
        """
        with arrivals, ready:
            async for first in arrivals:
                await self._few_left.wait()
                names = [first, *_take_waiting(arrivals, AHEAD - 1)]
                paths = [f"{self._directory}/{arrival.name}" for arrival in names]
                now, generation = trio.current_time(), self._gate.generation
                files = await open_spool_files(paths, self._limiter)
                for arrival, opened in zip(names, files, strict=True):
                    ticket = Ticket(arrival.name, arrival.atomic, now)
                    ready.send_nowait(Ahead(ticket, opened, generation))
                self._ahead += len(names)
                if self._ahead <= AHEAD_LOW:
                    self._few_left.set()

    async def run_alone(
        self,
        ready: trio.MemoryReceiveChannel[Ahead],
        settled: trio.MemorySendChannel[Settled],
    ) -> None:
        """Send run logs one by one; end with the source. Owns both channel ends."""
        with ready, settled:
            while (file := await self._next_ahead(ready)) is not None:
                done = await self._forward_ahead(file)
                if done is None:
                    continue
                try:
                    settled.send_nowait(done)
                except trio.WouldBlock:
                    await settled.send(done)

    async def _next_ahead(self, ready: trio.MemoryReceiveChannel[Ahead]) -> Ahead | None:
        """Return the next file, None at the end of the source."""
        try:
            try:
                file = ready.receive_nowait()
            except trio.WouldBlock:
                file = await ready.receive()
        except trio.EndOfChannel:
            return None
        self._ahead -= 1
        if self._ahead == AHEAD_LOW:
            self._few_left.set()
        return file

    async def _forward_ahead(self, file: Ahead) -> Settled | None:
        """Forward a file that was read ahead; return None if it gives way to others."""
        ticket, (identity, opened), generation = file
        if isinstance(opened, SpoolFile):
            if self._gate.trouble is None and self._gate.generation == generation:
                attempt = self._gate.admit()
                try:
                    done = await self._send(ticket, identity, opened, attempt)
                finally:
                    self._gate.leave(attempt)
                if self._is_settled(ticket, done, attempt):
                    return done
            else:
                opened.close()
        if self._gives_way([ticket]):
            self._pending.wait(ticket.name, GIVE_WAY_S)
            await trio.lowlevel.checkpoint()
            return None
        return await self._forward_one(ticket)

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
            if isinstance(file, Behind):
                return [Behind(one) for one in parcel]
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
            if self._is_settled(ticket, file, attempt):
                return file
        if self._pending.recalled:
            return Behind(ticket)
        retry = Retry(f"relayd stops; {_detail(self._gate.trouble)}", attempted=False)
        return Postponed(ticket, None, retry, "forward")

    def _is_settled(self, ticket: Ticket, file: Settled, attempt: Attempt) -> bool:
        """Return whether the upstream could be asked; if it has a file, newer ones may follow."""
        if attempt.trouble is not None and not attempt.trouble.reached:
            return False
        if isinstance(file, Finished):
            self._pending.let_follow(ticket.name)
        elif isinstance(file, Postponed):
            self._pending.note_attempt(ticket.name)
        return True

    async def _try(self, ticket: Ticket, attempt: Attempt) -> Settled:
        path = f"{self._directory}/{ticket.name}"
        identity, opened = await open_spool_file(path, self._limiter)
        if not isinstance(opened, SpoolFile):
            return _unfinished(ticket, identity, opened)
        return await self._send(ticket, identity, opened, attempt)

    async def _send(
        self, ticket: Ticket, identity: Identity | None, opened: SpoolFile, attempt: Attempt
    ) -> Settled:
        """Send a file, and close it."""
        try:
            if self._committed(ticket.name, opened.identity):
                await trio.lowlevel.checkpoint()
                return Finished(ticket, opened.identity, Forwarded(again=True))
            trouble = await self._upstream.put(self._route, ticket.name, opened)
        except OSError as error:
            return _unfinished(ticket, identity, Retry(f"cannot be read: {words_of(error)}"))
        finally:
            opened.close()
        attempt.end(trouble)
        if trouble is None:
            return Finished(ticket, opened.identity, Forwarded())
        retry, alone = Retry(trouble.detail), trouble.kind == "file"
        return Postponed(ticket, identity, retry, "forward", wait=trouble.wait, alone=alone)


def _take_waiting(arrivals: trio.MemoryReceiveChannel[Arrival], limit: int) -> Iterator[Arrival]:
    """Take what is waiting, at most so many."""
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        for _ in range(limit):
            yield arrivals.receive_nowait()


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
