"""Lets the node records survive a restart: read at the start, saved every minute and at a stop."""

from pathlib import Path
from typing import Final

import trio

from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.nodes.saved import NAME, read_saved, write_saved

log = get_logger("main")

#: Seconds for which a start, or a stop, waits for a file system that hangs.
PATIENCE_S: Final = 2.0
#: Seconds between two saves.
SAVE_S: Final = 60.0


class SavedRecords:
    """The file with the node records.

    Args:
        directory: of the state of relayd.
        records: of the nodes.
    """

    def __init__(self, directory: Path, records: NodeRecords) -> None:
        self._directory = directory
        self._records = records
        self._saved_changes = 0
        self._failed = False

    async def restore(self) -> None:
        """Continue with the records of the last process; their loss never delays the start."""
        with trio.move_on_after(PATIENCE_S):
            try:
                saved = await in_thread(read_saved, self._directory, abandon_on_cancel=True)
                if saved is not None:
                    self._records.restore(saved)
            except (OSError, ValueError) as error:
                detail = words_of(error) if isinstance(error, OSError) else str(error)
                file = str(self._directory / NAME)
                log.warning("node records cannot be read; new ones", file=file, detail=detail)

    async def run(self) -> None:
        """Save the records when they have changed; run forever."""
        while True:
            await trio.sleep(SAVE_S)
            await self._save()

    async def save(self) -> None:
        """Save the records at a stop, which they do not delay for long."""
        with trio.move_on_after(PATIENCE_S):
            await self._save()

    async def _save(self) -> None:
        changes = self._records.changes
        if changes == self._saved_changes:
            return
        content = self._records.dump()
        try:
            await in_thread(write_saved, self._directory, content, abandon_on_cancel=True)
        except OSError as error:
            if not self._failed:
                file = str(self._directory / NAME)
                log.warning("node records cannot be saved", file=file, detail=words_of(error))
            self._failed = True
        else:
            self._failed = False
            self._saved_changes = changes
