"""Backing off from an upstream that accepts no files, for all files of a kind together.

While uploads succeed the gate is open. When the upstream cannot be reached, or fails for file after
file, the gate closes: one file at a time is tried, ever more rarely, until one is answered. So
100,000 waiting files do not each find out for themselves. Files that were not tried before go
first: those that failed already are the likelier cause. What the upstream refuses on purpose (4xx,
redirects) may concern single files, which have their own delays; it does not close the gate.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

import trio

from relayd.outputs.health import Trouble
from relayd.system.delays import DELAYS, Delays

#: After this many failures in a row, without a success between them, the files are not the cause.
IN_A_ROW: Final = 8


class Attempt:
    """One upload that was let through.

    Attributes:
        trouble: how it ended; None: it succeeded, or was not tried.
        tried: whether the upload was tried at all.
    """

    __slots__ = ("generation", "tried", "trouble")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.trouble: Trouble | None = None
        self.tried = False

    def end(self, trouble: Trouble | None) -> None:
        """Note how the upload ended."""
        self.tried = True
        self.trouble = trouble


class Gate:
    """Lets uploads of one kind through.

    Attributes:
        trouble: why it is closed; None while it is open.
        generation: changes each time the gate opens, closes or stays closed after another attempt.

    Args:
        report: gets the trouble each time the gate closes or the upstream refuses file after file,
            and None after each upload that shows the upstream to be well.
        delays: how long to wait between attempts while it is closed. Each delay is spread by a
            quarter, so that relays do not return together.
        jitter: source of that spread.
        yields: returns whether nobody is to wait here now.
    """

    def __init__(
        self,
        report: Callable[[Trouble | None], None],
        delays: Delays = DELAYS,
        *,
        jitter: random.Random | None = None,
        yields: Callable[[], object] = bool,
    ) -> None:
        self._yields = yields
        self.trouble: Trouble | None = None
        self._report = report
        self._delays = delays
        self._jitter = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self.generation = 0
        self._in_a_row = 0
        self._refusals = 0
        self._failures = 0
        self._until = -inf
        self._probing = False
        self._stopping = False
        self._changed = trio.Event()
        self._waiting = {"new": 0, "retried": 0}

    def is_full_of_retries(self, limit: int) -> bool:
        """Return whether this many files that failed before wait here already."""
        return self._waiting["retried"] >= limit

    def admit(self) -> Attempt:
        """Return an attempt at once; only while the gate is open. It must be given to `leave`."""
        assert self.trouble is None
        return Attempt(self.generation)

    async def enter(self, *, retried: bool = False) -> Attempt | None:
        """Wait until an upload may be tried; return None when nobody is to wait.

        Each attempt must be held by `using`.

        Args:
            retried: whether the file failed before; it lets all others go first.
        """
        kind = "retried" if retried else "new"
        while not self._stopping or self.trouble is None:
            if self.trouble is None:
                await trio.lowlevel.checkpoint()
                return Attempt(self.generation)
            if self._yields():
                break
            behind = retried and self._waiting["new"] > 0
            if not self._probing and not behind and trio.current_time() >= self._until:
                self._probing = True
                return Attempt(self.generation)
            self._waiting[kind] += 1
            try:
                with trio.move_on_at(inf if self._probing or behind else self._until):
                    await self._changed.wait()
            finally:
                self._waiting[kind] -= 1
        await trio.lowlevel.checkpoint()
        return None

    @contextmanager
    def using(self, attempt: Attempt) -> Iterator[Attempt]:
        """Note how an attempt ended, whatever happens to the task that holds it."""
        try:
            yield attempt
        finally:
            self.leave(attempt)

    def leave(self, attempt: Attempt) -> None:
        """Note how an attempt ended; for callers of `admit`."""
        current = attempt.generation == self.generation
        if current and self.trouble is not None:
            self._probing = False
            self._wake_waiting()
        if not attempt.tried:
            return
        trouble = attempt.trouble
        if trouble is None or trouble.kind == "file":
            self._open()
            self._refusals = 0
            self._report(None)
        elif trouble.kind == "operator" and trouble.reached:
            self._open()
            self._count_refusal(trouble)
        elif current:
            self._count_failure(trouble)

    def wake(self) -> None:
        """Allow the next attempt at once: something changed that may have fixed the upstream."""
        self._until = -inf
        self._failures = 0
        self._wake_waiting()

    def wake_waiting(self) -> None:
        """Let those leave who wait, if nobody is to wait now."""
        self._wake_waiting()

    def stop(self) -> None:
        """Let nobody wait here any longer."""
        self._stopping = True
        self._wake_waiting()

    def _open(self) -> None:
        self._in_a_row = 0
        self._failures = 0
        if self.trouble is not None:
            self.trouble = None
            self._begin_generation()

    def _count_refusal(self, trouble: Trouble) -> None:
        self._refusals += 1
        if self._refusals >= IN_A_ROW:
            self._report(trouble)

    def _count_failure(self, trouble: Trouble) -> None:
        """Close the gate or keep it closed; a single failure while it is open does neither."""
        self._in_a_row += 1
        if trouble.reached and self._in_a_row < IN_A_ROW and self.trouble is None:
            return
        self._failures += 1
        self.trouble = trouble
        self._until = trio.current_time() + self._delay(trouble)
        self._begin_generation()
        self._report(trouble)

    def _begin_generation(self) -> None:
        """Stop counting uploads that are under way now: they say nothing about what comes."""
        self.generation += 1
        self._probing = False
        self._wake_waiting()

    def _delay(self, trouble: Trouble) -> float:
        steps = self._delays.upstream_failing
        if not trouble.reached:
            operator = trouble.kind == "operator"
            steps = (
                self._delays.upstream_operator if operator else self._delays.upstream_unreachable
            )
        delay = steps.after(self._failures) * self._jitter.uniform(0.75, 1.25)
        return max(delay, trouble.wait)

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
