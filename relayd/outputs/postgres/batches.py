"""Batches of run logs: by halves where one is refused, and who is at fault then."""

from collections.abc import Sequence

import msgspec

from relayd.errors import DatabaseError, Reason, Refused, Retry
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.known_good import known_good
from relayd.outputs.postgres.session import Session
from relayd.outputs.postgres.storing import rounds
from relayd.outputs.postgres.tables import TOKEN_PREFIX
from relayd.outputs.results import BEHIND, Written
from relayd.runlog.model import RunLog


class _Attempt(msgspec.Struct):
    """An attempt with one batch.

    Attributes:
        batch: the run logs.
        judged_by: token of the tables by which run logs are judged; `TOKEN_PREFIX` alone, which no
            tables have, if they changed meanwhile: such a judgement is soon made again.
        outcomes: what became of them so far, by index.
        sound: whether the tables are known to accept run logs.
        looked: whether it was checked what the tables are like now.
        waiting: nodes of which a run log waits; their newer ones wait behind it.
    """

    batch: Sequence[RunLog]
    judged_by: str
    outcomes: dict[int, Written] = msgspec.field(default_factory=dict)
    sound: bool = False
    looked: bool = False
    waiting: set[str] = msgspec.field(default_factory=set)


class Batches:
    """Writes batches over a session, and remembers a report that the tables have accepted."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._accepted: tuple[str, ...] | None = None

    async def write(self, batch: Sequence[RunLog]) -> list[Written]:
        """Commit a batch, see `Database.write`."""
        attempt = _Attempt(batch, self._session.token)
        for part in rounds(batch):
            await self._write_part(attempt, part)
        return [attempt.outcomes[index] for index in range(len(batch))]

    async def _write_part(self, attempt: _Attempt, part: list[int]) -> None:
        """Write some run logs of a batch, by halves where one of them is refused."""
        behind = [index for index in part if attempt.batch[index].node_id in attempt.waiting]
        attempt.outcomes.update(dict.fromkeys(behind, BEHIND))
        part = [index for index in part if index not in attempt.outcomes]
        if not part:
            return
        try:
            stored = await self._session.transaction([attempt.batch[index] for index in part])
        except DatabaseError as error:
            if error.kind not in ("permanent", "table"):
                raise
            if not attempt.looked and await self._must_write_otherwise(attempt):
                await self._write_part(attempt, part)
                return
            if len(part) == 1:
                verdict = await self._judge(attempt, part[0], error)
                attempt.outcomes[part[0]] = verdict
                if isinstance(verdict, Retry):
                    attempt.waiting.add(attempt.batch[part[0]].node_id)
                return
            half = len(part) // 2
            await self._write_part(attempt, part[:half])
            await self._write_part(attempt, part[half:])
        else:
            attempt.outcomes.update(zip(part, stored, strict=True))
            for index, outcome in zip(part, stored, strict=True):
                if outcome.rows:
                    attempt.sound = True
                    self._accepted = attempt.batch[index].first

    async def _must_write_otherwise(self, attempt: _Attempt) -> bool:
        """Look at the tables once more, which others may have changed since the connection."""
        attempt.looked = True
        before = self._session.tables
        await self._session.probe(read=True)
        now = self._session.tables
        assert before is not None
        assert now is not None
        if before.token != now.token:
            attempt.judged_by = TOKEN_PREFIX
        return (before.copy, before.key) != (now.copy, now.key)

    async def _judge(self, attempt: _Attempt, index: int, error: DatabaseError) -> Refused | Retry:
        """Return what becomes of a run log that was refused by itself.

        Raises:
            DatabaseError: the tables refuse a good run log too, so it says nothing of this one.
        """
        if not attempt.sound:
            await self._insert_known_good(attempt.batch[index].node_id)
            attempt.sound = True
        reason = f"{error} (SQLSTATE {error.sqlstate})"
        if error.kind == "table":
            return Retry(f"the tables refuse it, but Rudder's own would not: {reason}")
        detail = f"the database refused it: {reason}"
        return Refused(Reason.DATABASE, detail, judged_by=attempt.judged_by)

    async def _insert_known_good(self, node_id: str) -> None:
        """Insert a good run log and roll back.

        Raises:
            DatabaseError: it was refused, too.
        """
        if self._accepted is None:
            await self._fetch_accepted(node_id)
        fault: DatabaseError | None = None
        for run_log in known_good(self._accepted, node_id):
            try:
                await self._session.transaction([run_log], trial=True)
            except DatabaseError as error:
                if error.kind not in ("permanent", "table"):
                    raise
                fault = error
            else:
                return
        assert fault is not None
        detail = f"the tables refuse every run log: {fault}"
        raise DatabaseError(detail, "operator", fault.sqlstate, all_alike=True) from fault

    async def _fetch_accepted(self, node_id: str) -> None:
        """Find a report of another node, which was accepted before this relayd was started."""
        row = await self._session.ask(lambda _tables: sql.REPORT_OF_ANOTHER, node_id)
        self._accepted = None if row is None else tuple(row)
