"""Another chance for run logs that the tables have refused, once the tables may accept them.

An operator who has repaired the tables notifies nobody. relayd compares the token of their
definition, and only while there is a file that may profit.
"""

from typing import Final

import trio

from relayd.errors import DatabaseError, Reason
from relayd.outputs.results import RunLogStore
from relayd.pipelines.line import Line
from relayd.pipelines.write import Writer
from relayd.spool.disposal import ReasonRecord
from relayd.telemetry.logs import get_logger

log = get_logger("database")

#: Seconds between two looks.
LOOK_S: Final = 30.0


class SecondChance:
    """Retries what the tables have refused.

    Args:
        store: knows the token of the tables.
        writer: knows whether anything was refused, or waits.
        line: has the refused files, and those that wait.
        look_s: seconds between two looks.
    """

    def __init__(
        self, store: RunLogStore, writer: Writer, line: Line, look_s: float = LOOK_S
    ) -> None:
        self._store = store
        self._writer = writer
        self._line = line
        self._look_s = look_s
        self._token = ""
        #: Refused files may be left from an earlier run, or from an older relayd.
        self._refused = True

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._refused |= self._writer.refused_some
            self._writer.refused_some = False
            if self._refused or self._writer.waits_for_tables:
                await self._look()
            await trio.sleep(self._look_s)

    async def _look(self) -> None:
        try:
            token = await self._store.definition()
        except DatabaseError:
            return
        changed, self._token = bool(self._token) and token != self._token, token
        moved = await self._requeue(token) if self._refused else 0
        if moved:
            log.info("run logs refused by other tables are retried", files=moved)
        if moved or self._writer.waits_for_all or (changed and self._writer.waits_for_tables):
            self._line.rescan()

    async def _requeue(self, token: str) -> int:
        """Move back what was refused by other tables; remember whether anything is left."""
        left = 0

        def may_pass_now(record: ReasonRecord) -> bool:
            nonlocal left
            left += record.reason is Reason.DATABASE
            return record.reason is Reason.DATABASE and record.trust != token

        moved = await self._line.disposal.requeue(may_pass_now)
        self._refused = left > 0
        return moved
