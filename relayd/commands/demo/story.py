"""The story of the demo: normal work, an outage of the database, a killed relayd."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from relayd.commands.demo.postgres.server import Server
from relayd.commands.demo.processes.daemon import Daemon

#: Seconds of each part.
PART: Final = 7.0
#: Seconds for the spools to become empty after a fault; then the story goes on anyway.
_RECOVERY: Final = 30.0
_POLL: Final = 0.05
#: Seconds to wait for a moment at which relayd has work.
_BUSY: Final = 5.0


@dataclass
class Story:
    """What happens to the database and the root server while the fleet uploads.

    Attributes:
        server: the database server.
        daemon: relayd on the root server.
        waiting: return the number of files in the spools.
        kept: return the number of uploads that their nodes keep for their next run.
        stop: ends the story; what is away is started again first.
        say: called with each new sentence.
        part: seconds of each part.
        happened: what was done, for the accounts.
    """

    server: Server
    daemon: Daemon
    waiting: Callable[[], int]
    kept: Callable[[], int]
    stop: trio.Event
    say: Callable[[str], None]
    part: float = PART
    happened: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Run all parts once; then everything works normally."""
        parts: list[Callable[[], Awaitable[None]]] = [self._work, self._lose_database, self._kill]
        for part in parts:
            await part()
            if self.stop.is_set():
                return
        self.say("That was the story. Normal work goes on; Ctrl-C stops and counts everything.")

    async def _work(self) -> None:
        self.say("Normal work: nodes upload signed run logs; bad ones are sent on purpose.")
        await self._pause()

    async def _lose_database(self) -> None:
        self.say("The database is stopped. Run logs wait in the spool; nothing is lost.")
        begin = trio.current_time()
        await trio.to_thread.run_sync(self.server.stop, "immediate")
        try:
            await self._pause()
        finally:
            with trio.CancelScope(shield=True):
                waited = await trio.to_thread.run_sync(self.waiting)
                await trio.to_thread.run_sync(self.server.start)
            away = trio.current_time() - begin
            text = f"The database was away for {away:.0f} s; {waited} run logs waited."
            self.happened.append(text)
        await self._recover("The database is back", waited)

    async def _kill(self) -> None:
        self.say(
            "relayd is killed (SIGKILL) in the middle of its work, and started again."
            " Nodes keep what it does not take."
        )
        with trio.move_on_after(_BUSY):
            while not await trio.to_thread.run_sync(self.waiting):
                await trio.lowlevel.checkpoint()
        self.happened.append("relayd was killed once (SIGKILL) while it worked.")
        await self.daemon.kill_and_restart()
        if kept := self.kept():
            self.happened[-1] += f" Nodes kept {kept} uploads for their next runs."
        waited = await trio.to_thread.run_sync(self.waiting)
        more = f" {kept} more are kept by their nodes until their next run." if kept else ""
        await self._recover("relayd is back", waited, more)

    async def _recover(self, what: str, waited: int, more: str = "") -> None:
        """Wait until the files that waited have been processed, and say how long it took.

        Args:
            what: what is back.
            waited: number of these files.
            more: a further sentence.
        """
        begin = trio.current_time()
        with trio.move_on_after(_RECOVERY):
            while await trio.to_thread.run_sync(self.waiting) > waited // 10:
                if self.stop.is_set():
                    return
                await trio.sleep(_POLL)
        seconds = trio.current_time() - begin
        self.say(f"{what}: {waited} waiting run logs were processed in {seconds:.1f} s.{more}")
        await self._pause()

    async def _pause(self) -> None:
        with trio.move_on_after(self.part):
            await self.stop.wait()
