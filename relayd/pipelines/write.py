"""The write stage: batches are committed, and wait while the database is unavailable."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import compress
from typing import Final, Literal

import msgspec
import trio

from relayd.errors import DatabaseError, Refused, Retry
from relayd.outputs.health import CONNECTION, Health, Trouble, watch
from relayd.outputs.results import BEHIND, RunLogStore, Written
from relayd.pipelines.examine import Accepted
from relayd.pipelines.gather import BATCH
from relayd.pipelines.held import Held
from relayd.pipelines.ticket import Behind, Finished, Settled, Summary, unfinished
from relayd.runlog.filename import run_of
from relayd.runlog.model import RunLog
from relayd.spool.holds import Holds
from relayd.system.delays import DELAYS, Delays
from relayd.system.wake import Wake

#: The kind of files, in log lines, and those of them that the tables refuse while others go in.
FILES: Final = "reports"
SOME: Final = "some reports"
#: Disk full, too many connections: no run log of a batch is better off than another.
FULL: Final = frozenset({"53100", "53300"})
#: Only a standby answers: while a failover goes on, this ends at any moment.
FAILS_OVER: Final = frozenset({"25006"})
#: A batch that fails this often while the server answers is written run log by run log.
ATTEMPTS_TOGETHER: Final = 3
#: A batch that the tables refuse as a whole lets another one go first after so many attempts:
#: should the fault not concern all run logs, those behind it go in.
ATTEMPTS_ALIKE: Final = 6
#: The verdict on a run log that was not written while an operator waits for some in flight.
RECALLED: Final = Retry("an operator waits for files in flight", attempted=False)


class Writer:
    """The write stage.

    Args:
        store: where run logs go.
        health: notes how attempts end.
        delays: between attempts while the database is unavailable.
        holds: the files for which newer ones of their node wait.
        retry_all: called when files that wait may be accepted now.
        recalled: returns the names in flight that an operator waits for.

    Attributes:
        refused_some: whether the tables have refused a run log since this was last set to False.
    """

    def __init__(
        self,
        store: RunLogStore,
        health: Health,
        delays: Delays = DELAYS,
        holds: Holds | None = None,
        retry_all: Callable[[], None] = lambda: None,
        recalled: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._store = store
        self._health = health
        self._delays = delays
        self._holds = holds or Holds()
        self._wake = Wake()
        self._stopping = False
        self._was_up = False
        self._retry_all = retry_all
        self._recalled = recalled
        self._held = Held()
        #: Whether whole batches were put back, which are retried with the first success.
        self._owes_retries = False
        self.refused_some = False

    def wake(self) -> None:
        """End a wait now: something changed that may have fixed the database."""
        self._wake.set()

    def stop(self) -> None:
        """Stop waiting for the database: what cannot be written stays in the spool."""
        self._stopping = True
        self.wake()

    async def run(
        self,
        source: trio.MemoryReceiveChannel[list[Accepted]],
        to_dispose: trio.MemorySendChannel[list[Settled]],
    ) -> None:
        """Write what arrives; end with the source. Owns both channel ends."""
        with source, to_dispose:
            async for part in source:
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    # Small parts are worth one transaction; two large ones only cost memory.
                    while len(part) < BATCH // 2:
                        part.extend(source.receive_nowait())
                settled = await self._write_in_order(part)
                # Some MB that would live on while the disposal is busy.
                del part
                await to_dispose.send(settled)

    async def _write_in_order(self, part: Sequence[Accepted]) -> list[Settled]:
        """Write what need not wait for an older run of its node."""
        behind: list[Settled] = []
        free: list[Accepted] = []
        if self._holds.kept:
            for file in part:
                self._holds.reach(file.ticket.name)
        for file in part:
            if self._is_behind(file):
                behind.append(Behind(file.ticket))
            else:
                free.append(file)
        if not free:
            return behind
        verdicts = await self.write([file.run_log for file in free])
        self._keep_order(free, verdicts)
        return behind + [self._settle(*pair) for pair in zip(free, verdicts, strict=True)]

    def _keep_order(self, files: Sequence[Accepted], verdicts: Sequence[Written]) -> None:
        """Let newer run logs in flight wait for those that are put back for an operator's sake."""
        if not any(verdict is RECALLED for verdict in verdicts):
            return
        recalled = self._recalled()
        nodes: set[str] = set()
        for file, verdict in zip(files, verdicts, strict=True):
            name, node = file.ticket.name, file.run_log.node_id
            if verdict is RECALLED and name not in recalled and node not in nodes:
                nodes.add(node)
                self._holds.keep(name)

    def _is_behind(self, file: Accepted) -> bool:
        run = run_of(file.ticket.name)
        return run is not None and self._holds.until(*run) > 0

    async def write(self, run_logs: Sequence[RunLog]) -> Sequence[Written]:
        """Write one batch, however long it takes, unless relayd stops."""
        if len(run_logs) > 1 and any(self._held.holds(run_log) for run_log in run_logs):
            return await self._write_without_held(run_logs)
        attempt = 0
        while not self._gives_up():
            try:
                outcomes = await self._store.write(run_logs)
            except DatabaseError as error:
                attempt += 1
                self._note(error)
                if error.all_alike and attempt >= ATTEMPTS_ALIKE:
                    self._owes_retries = True
                    return [self._not_attempted()] * len(run_logs)
                if self._goes_alone(error, attempt) and await self._server_is_well():
                    return await self._write_each(run_logs)
                await self._wait(error, attempt)
            else:
                self._recovered()
                return self._note_outcomes(run_logs, outcomes)
        return [self._not_attempted()] * len(run_logs)

    async def _write_without_held(self, run_logs: Sequence[RunLog]) -> list[Written]:
        """Write those alone that failed alone before: the others do not wait for them."""
        held = [self._held.holds(run_log) for run_log in run_logs]
        others = [run_log for run_log, alone in zip(run_logs, held, strict=True) if not alone]
        alone = iter(await self._write_each(list(compress(run_logs, held))))
        together = iter(await self.write(others) if others else ())
        return [next(alone if is_held else together) for is_held in held]

    async def _write_each(self, run_logs: Sequence[RunLog]) -> list[Written]:
        """Write one after the other; those of a node wait behind one that cannot be written."""
        verdicts: list[Written] = []
        waiting: set[str] = set()
        for run_log in run_logs:
            if run_log.node_id in waiting:
                verdicts.append(BEHIND)
                continue
            verdicts.append(await self._write_alone(run_log))
            if isinstance(verdicts[-1], Retry):
                waiting.add(run_log.node_id)
        return verdicts

    async def _write_alone(self, run_log: RunLog) -> Written:
        """Write one run log; one that the server cannot take now does not hold up the others."""
        attempt = 0
        while not self._gives_up():
            try:
                (outcome,) = await self._store.write([run_log])
            except DatabaseError as error:
                if await self._server_is_well():
                    retry = Retry(str(error))
                    self._note_outcomes([run_log], [retry])
                    return retry
                attempt += 1
                self._note(error)
                await self._wait(error, attempt)
            else:
                self._recovered()
                self._note_outcomes([run_log], [outcome])
                return outcome
        return self._not_attempted()

    def _note_outcomes(
        self, run_logs: Sequence[RunLog], outcomes: Sequence[Written]
    ) -> Sequence[Written]:
        """Note what the tables refuse; retry all that waits when one that waited went in."""
        self.refused_some |= any(isinstance(outcome, Refused | Retry) for outcome in outcomes)
        if self._held.note(run_logs, outcomes):
            self._retry_all()
        self._note_held()
        return outcomes

    def _note_held(self) -> None:
        if self._held:
            self._health.note(SOME, Trouble(self._held.detail, "operator"))
        elif self._health.holds(SOME):
            self._health.note(SOME, None)

    async def check(self) -> None:
        """Raise `DatabaseError` if writing fails, or nothing could be written now."""
        self._note_held()
        trouble = self._health.trouble
        if trouble is not None and (self._health.holds(FILES) or self._health.holds(SOME)):
            some = "" if self._is_down or not self._held else f"{len(self._held)} run logs wait: "
            raise DatabaseError(f"{some}{trouble.detail}", "operator", trouble.code)
        await self._store.probe()
        if trouble is not None:  # of `watch`, while no run log comes
            self._health.note(CONNECTION, None)

    async def probe(self) -> None:
        """Report whether the database is available before a run log needs it; end once it was."""
        attempt = 0
        while not self._was_up and not self._stopping:
            try:
                await self._store.probe()
            except DatabaseError as error:
                attempt += 1
                self._note(error)
                await trio.sleep(self._delay(error, attempt))
            else:
                self._recovered()

    async def watch(self, reads: Callable[[], int]) -> None:
        """Look at the database while no run log comes; run forever.

        Args:
            reads: returns how often the metrics, which show it, were read.
        """
        await watch(self._health, reads, self._look)

    async def _look(self) -> Trouble | None:
        try:
            await self._store.look()
        except DatabaseError as error:
            return _trouble(error)
        return None

    def _goes_alone(self, error: DatabaseError, attempt: int) -> bool:
        """Return whether each run log is better written by itself."""
        together = error.all_alike or error.sqlstate in FULL
        return attempt >= ATTEMPTS_TOGETHER and not together

    @property
    def waits_for_all(self) -> bool:
        """Whether whole batches were put back since the tables refuse every run log."""
        return self._owes_retries

    @property
    def waits_for_tables(self) -> bool:
        """Whether run logs wait that the tables refuse."""
        return self._owes_retries or bool(self._held)

    @property
    def _is_down(self) -> bool:
        return self._health.holds(FILES) or self._health.holds(CONNECTION)

    def _gives_up(self) -> bool:
        return self._is_down and (self._stopping or bool(self._recalled()))

    def _not_attempted(self) -> Retry:
        if self._recalled() and not self._stopping:
            return RECALLED
        trouble = self._health.trouble
        return Retry(trouble.detail if trouble else "relayd stops", attempted=False)

    async def _server_is_well(self) -> bool:
        try:
            await self._store.probe()
        except DatabaseError:
            return False
        return True

    async def _wait(self, error: DatabaseError, attempt: int) -> None:
        with trio.move_on_after(self._delay(error, attempt)):
            await self._wake.wait()

    def _delay(self, error: DatabaseError, attempt: int) -> float:
        operator = error.kind == "operator" and error.sqlstate not in FAILS_OVER
        steps = self._delays.database_operator if operator else self._delays.database
        return steps.after(attempt)

    def _note(self, error: DatabaseError) -> None:
        self._health.note(FILES, _trouble(error))

    def _recovered(self) -> None:
        self._was_up = True
        self._health.note(FILES, None)
        if self._owes_retries:
            self._owes_retries = False
            self._retry_all()

    def _settle(self, file: Accepted, verdict: Written) -> Settled:
        if isinstance(verdict, Refused | Retry):
            if isinstance(verdict, Retry):
                if verdict is RECALLED or self._is_behind(file):
                    return Behind(file.ticket)
                self._holds.add(file.ticket.name)
            return unfinished(file.ticket, file.identity, verdict, "database")
        if broken := file.run_log.broken:
            verdict = msgspec.structs.replace(verdict, broken=broken)
        return Finished(file.ticket, file.identity, verdict, _summary(file.run_log))


def _summary(run_log: RunLog) -> Summary:
    rows = run_log.copy
    date = rows[rows.rfind(b"\n", 0, -1) + 1 :].partition(b"\t")[0]
    newest: float | None
    try:
        newest = datetime.fromisoformat(date.decode()).timestamp()
    except (ValueError, OverflowError):
        newest = None
    return Summary(run_log.reports, run_log.config_id, newest)


def _trouble(error: DatabaseError) -> Trouble:
    # What the server refuses for good is settled by run log and never gets here.
    kind: Literal["operator", "transient"]
    kind = "operator" if error.kind == "operator" else "transient"
    return Trouble(str(error), kind, code=error.sqlstate)
