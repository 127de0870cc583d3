"""Backing off from an upstream that takes no files, all of them together.

While uploads succeed the gate is open. When the upstream cannot be reached, or fails for file after
file, it closes: nobody tries but one file at a time, ever more rarely, until one is answered. So
100,000 files that wait do not each find out for themselves. What the upstream refuses on purpose
(4xx, redirects) may concern single files, which have their own delays: that closes nothing.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, Literal

import msgspec
import trio

#: Turned down so often in a row, with no success between, it is not the files.
IN_A_ROW: Final = 8
#: Seconds between attempts by what is wrong: reached but failing (a few files that always fail
#: must not hold up the others for long), not reached, and someone must act before it is. Each
#: is spread by a quarter, so that relays do not return together.
BUSY_DELAYS_S: Final = (0.1, 0.25, 0.5, 1.0)
UNREACHED_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
OPERATOR_DELAYS_S: Final = (5.0, 15.0, 60.0)


class Trouble(msgspec.Struct, frozen=True):
    """Why an upload did not succeed.

    Attributes:
        detail: one line for the operator.
        kind: `file` concerns this file alone; `transient` passes by itself; `operator`: someone
            must act.
        reached: False when there was not even a connection to the right peer.
        wait: seconds that the upstream asked to wait, 0 when it did not.
    """

    detail: str
    kind: Literal["file", "transient", "operator"]
    reached: bool = True
    wait: float = 0.0


class Turn:
    """One upload that was let through.

    Attributes:
        trouble: how it ended; set by the holder. None: it succeeded.
        used: whether it was tried at all.
    """

    __slots__ = ("era", "trouble", "used")

    def __init__(self, era: int) -> None:
        self.era = era
        self.trouble: Trouble | None = None
        self.used = False

    def end(self, trouble: Trouble | None) -> None:
        """Say how the upload ended."""
        self.used = True
        self.trouble = trouble


class Gate:
    """Lets uploads of one kind through.

    Attributes:
        trouble: why it is closed; None while it is open.

    Args:
        changed: told the trouble each time it closes, or when all is refused; and None with each
            upload that is not.
        jitter: source of the spread of delays.
    """

    def __init__(
        self, changed: Callable[[Trouble | None], None], *, jitter: random.Random | None = None
    ) -> None:
        self.trouble: Trouble | None = None
        self._tell = changed
        self._jitter = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._era = 0
        self._in_a_row = 0
        self._refusals = 0
        self._attempts = 0
        self._until = -inf
        self._probing = False
        self._stopping = False
        self._moved = trio.Event()

    async def enter(self) -> Turn | None:
        """Wait until an upload may be tried; None: relayd stops, leave it.

        Each turn must be given to `leave`.
        """
        while not self._stopping or self.trouble is None:
            if self.trouble is None:
                await trio.lowlevel.checkpoint()
                return Turn(self._era)
            if not self._probing and trio.current_time() >= self._until:
                self._probing = True
                return Turn(self._era)
            with trio.move_on_at(inf if self._probing else self._until):
                await self._moved.wait()
        await trio.lowlevel.checkpoint()
        return None

    @contextmanager
    def using(self, turn: Turn) -> Iterator[Turn]:
        """Take note of how a turn ended, whatever happens to its holder."""
        try:
            yield turn
        finally:
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        current = turn.era == self._era
        if current and self.trouble is not None:
            self._probing = False
            self._ring()
        if not turn.used:
            return
        trouble = turn.trouble
        if trouble is None or trouble.kind == "file":
            self._open()
            self._refusals = 0
            self._tell(None)
        elif trouble.kind == "operator" and trouble.reached:
            self._open()
            self._count_refusal(trouble)
        elif current:
            self._count(trouble)

    def wake(self) -> None:
        """Something changed that may have mended it: the next attempt may be made now."""
        self._until = -inf
        self._attempts = 0
        self._ring()

    def stop(self) -> None:
        """From now on nobody waits here."""
        self._stopping = True
        self._ring()

    def _open(self) -> None:
        self._in_a_row = 0
        self._attempts = 0
        if self.trouble is not None:
            self.trouble = None
            self._begin_era()

    def _count_refusal(self, trouble: Trouble) -> None:
        self._refusals += 1
        if self._refusals >= IN_A_ROW:
            self._tell(trouble)

    def _count(self, trouble: Trouble) -> None:
        """Close, or goes on being closed; what began before it closed says nothing new."""
        self._in_a_row += 1
        if trouble.reached and self._in_a_row < IN_A_ROW and self.trouble is None:
            return
        self._attempts += 1
        self.trouble = trouble
        self._until = trio.current_time() + self._delay(trouble)
        self._begin_era()
        self._tell(trouble)

    def _begin_era(self) -> None:
        """What is under way by now is not the probe of what comes."""
        self._era += 1
        self._probing = False
        self._ring()

    def _delay(self, trouble: Trouble) -> float:
        delays: tuple[float, ...] = BUSY_DELAYS_S if trouble.reached else UNREACHED_DELAYS_S
        if not trouble.reached and trouble.kind == "operator":
            delays = OPERATOR_DELAYS_S
        delay = delays[min(self._attempts, len(delays)) - 1]
        return max(delay * self._jitter.uniform(0.75, 1.25), trouble.wait)

    def _ring(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
