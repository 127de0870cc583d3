"""The failovers of a demo: those of its plan, and those that are started by keys."""

import os
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from relayd.commands.demo.cluster.cluster import Cluster
from relayd.commands.demo.cluster.failovers import FAILOVERS

_POLL: Final = 0.1
#: Seconds for what a failover has lost to be stored again: relayd looks every 10 s.
_RESTORE_DEADLINE: Final = 40.0
_BY_KEY: Final = {failover.key: name for name, failover in FAILOVERS.items()}
KEYS: Final = "Keys: " + ", ".join(f"{key} {name}" for key, name in _BY_KEY.items()) + "."
_WROTE: Final = "SELECT count(*) FROM reportsexecution WHERE insertiondate > to_timestamp({})"
_LONGEST_GAP: Final = """\
SELECT coalesce(extract(epoch FROM max(gap)), 0) FROM (
    SELECT insertiondate - lag(insertiondate) OVER (ORDER BY insertiondate) AS gap
    FROM reportsexecution WHERE insertiondate BETWEEN to_timestamp({}) AND to_timestamp({})
) AS gaps
"""


@dataclass
class Failing:
    """Lets the primary of a cluster fail while the fleet uploads.

    Attributes:
        cluster: the cluster.
        plan: names of failovers.
        part: seconds before each of them.
        stop: ends the failovers; one that is going on is finished first.
        say: called with each new sentence.
        terminal: descriptor of the terminal whose keys start further ones; None: there is none.
        happened: what was done, for the accounts.
    """

    cluster: Cluster
    plan: Sequence[str]
    part: float
    stop: trio.Event
    say: Callable[[str], None]
    terminal: int | None
    happened: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Let the planned failovers and those of the keys happen, one after the other."""
        left = deque(self.plan)
        keys = KEYS if self.terminal is not None else ""
        self.say(f"Normal work: two relayds write to the primary of three. {keys}".strip())
        send, pressed = trio.open_memory_channel[str](1)
        async with trio.open_nursery() as nursery:
            if self.terminal is not None:
                nursery.start_soon(read_keys, self.terminal, send, name="keys")
            while kind := await self._next(left, pressed):
                await self._fail_over(kind)
                if not left:
                    self._say_more(f"Normal work goes on; Ctrl-C stops and counts. {keys}")
            nursery.cancel_scope.cancel()

    async def _next(self, left: deque[str], pressed: trio.MemoryReceiveChannel[str]) -> str | None:
        """Wait for a key or the time of the next planned failover; None if there are no more."""
        kind: str | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_stop, nursery.cancel_scope)
            with trio.move_on_after(self.part if left else float("inf")):
                kind = await pressed.receive()
            nursery.cancel_scope.cancel()
        if self.stop.is_set():
            return None
        return kind or left.popleft()

    async def _cancel_at_stop(self, scope: trio.CancelScope) -> None:
        await self.stop.wait()
        scope.cancel()

    async def _fail_over(self, kind: str) -> None:
        self.say("Waiting until the cluster is whole.")
        await self.cluster.healthy()
        before = await self.cluster.primary()
        # Without a commit before it, there is nothing to count the time without commits from.
        await self._until_written(time.time())
        self.say(FAILOVERS[kind].text)
        begin = time.time()
        await FAILOVERS[kind].run(self.cluster)
        await self._until_written(time.time())
        gap = await self._ask(_LONGEST_GAP.format(begin - 1, time.time()))
        after = await self.cluster.primary()
        text = f"{kind}: {before.name} to {after.name}, {gap:.1f} s without commits."
        self.happened.append(text)
        self.say(text)

    def _say_more(self, sentence: str) -> None:
        self.say(f"{self.happened[-1]} {sentence}".strip())

    async def _until_written(self, since: float) -> None:
        """Return when something was stored after `since`, or when no more is sent."""
        while True:
            if await self._ask(_WROTE.format(since)) or self.stop.is_set():
                return
            await trio.sleep(_POLL)

    async def restored(self, count: int) -> None:
        """Return when the database has `count` run logs, those that a failover has lost included.

        Does not wait for ever: what is missing then is an error, which the accounts show.
        """
        with trio.move_on_after(_RESTORE_DEADLINE):
            while True:
                if not self.happened or await self._ask(_WROTE.format(0)) >= count:
                    return
                await trio.sleep(_POLL)

    async def _ask(self, sql: str) -> float:
        """Return a number from the primary; 0 while there is none."""
        try:
            return float(await trio.to_thread.run_sync(self.cluster.psql, sql))
        except RuntimeError:
            return 0.0


def open_terminal() -> int | None:
    """Return the descriptor of standard input if it is a terminal that this program may read."""
    try:
        descriptor = sys.stdin.fileno()
        return descriptor if os.tcgetpgrp(descriptor) == os.getpgrp() else None
    except (OSError, ValueError, AttributeError):
        return None


async def read_keys(descriptor: int, send: trio.MemorySendChannel[str]) -> None:
    """Send the failover of each key that is pressed, until cancelled or the terminal is closed.

    While one is waiting, further keys are ignored.

    Args:
        descriptor: of a terminal.
        send: a channel that holds one.
    """
    with _unbuffered(descriptor):
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            try:
                pressed = os.read(descriptor, 1).decode(errors="replace")
            except OSError:
                return
            if not pressed:
                return
            if kind := _BY_KEY.get(pressed.lower()):
                try:
                    send.send_nowait(kind)
                except trio.WouldBlock:
                    continue


@contextmanager
def _unbuffered(descriptor: int) -> Iterator[None]:
    """Let a terminal deliver each key at once, without showing it."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        with suppress(termios.error):  # it may have been closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
