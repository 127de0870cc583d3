"""Whether an output accepts files: one gauge, and one log line each time that changes."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
import trio
from prometheus_client import Gauge

from relayd.telemetry.logs import get_logger

#: The kind of files of a probe, which sends none; any success clears its trouble too.
CONNECTION: Final = "connection"

#: Seconds between two looks at an idle output.
LOOK_S: Final = 30.0


class Trouble(msgspec.Struct, frozen=True):
    """Why an output did not accept a file.

    Attributes:
        detail: one line for the operator.
        kind: `file` concerns this file alone; `transient` passes by itself; `operator`: an
            operator has to act.
        reached: False when there was no connection to the right server.
        wait: seconds that the server asked to wait, 0 when it did not.
        code: the server's own code of the error (SQLSTATE), "" where it has none.
    """

    detail: str
    kind: Literal["file", "transient", "operator"]
    reached: bool = True
    wait: float = 0.0
    code: str = ""


class Health:
    """The health of one output, as its attempts report it.

    Attributes:
        output: its name.
        attempts: how many attempts and probes have ended.
        since: Unix time since which it accepts files, or does not; None before the first attempt.
        last_done: Unix time at which it last accepted a file; None before the first.

    Args:
        output: name of the output, which is also the component of its log lines.
        gauge: 1 while the output accepts files, else 0.
    """

    def __init__(self, output: str, gauge: Gauge) -> None:
        self.output = output
        self._gauge = gauge
        self._log = get_logger(output)
        self._troubles: dict[str, Trouble] = {}
        self._failures: Counter[str] = Counter()
        self.attempts = 0
        self.since: float | None = None
        self.last_done: float | None = None
        #: Whether another success would change nothing.
        self._well = False

    @property
    def trouble(self) -> Trouble | None:
        """Why the output does not accept files; None when it does, as far as is known."""
        return next(iter(self._troubles.values()), None)

    def holds(self, files: str) -> bool:
        """Return whether the output does not accept this kind of files, as far as is known."""
        return files in self._troubles

    def note(self, files: str, trouble: Trouble | None) -> None:
        """Note how an attempt ended.

        Args:
            files: the kind of files of the attempt, or `CONNECTION` for a probe.
            trouble: why it failed; None when it succeeded.
        """
        self.attempts += 1
        if trouble is None and files != CONNECTION:
            self.last_done = time.time()
        if trouble is None and self._well:
            return
        self._well = False
        was_bad = bool(self._troubles)
        former = self._troubles.pop(files, None)
        if trouble is None:
            former = self._troubles.pop(CONNECTION, None) or former
            self._failures.pop(files, None)
            self._failures.pop(CONNECTION, None)
        reported = {other.detail for other in self._troubles.values()}
        if trouble is not None:
            self._troubles[files] = trouble
            if former is not None:
                reported.add(former.detail)
            self._log_trouble(files, trouble, again=trouble.detail in reported)
        elif former is not None and former.detail not in reported:
            self._log.info("output available again", output=self.output, files=files)
        if self.since is None or was_bad != bool(self._troubles):
            self.since = time.time()
        self._gauge.set(not self._troubles)
        self._well = not self._troubles and not self._failures

    def _log_trouble(self, files: str, trouble: Trouble, *, again: bool) -> None:
        self._failures[files] += 1
        code = {"sqlstate": trouble.code} if trouble.code else {}
        log, event = (
            (self._log.debug, "output still unavailable")
            if again
            else (self._log.error, "output unavailable; files wait")
        )
        log(
            event,
            output=self.output,
            files=files,
            attempt=self._failures[files],
            kind=trouble.kind,
            detail=trouble.detail,
            **code,
        )


async def watch(
    health: Health, reads: Callable[[], int], look: Callable[[], Awaitable[Trouble | None]]
) -> None:
    """Keep the gauge of an output true while no file comes; run forever.

    An idle output is looked at every `LOOK_S` seconds, and only if somebody has read the metrics
    since: a look may keep a server awake that a connection pooler would let go.

    Args:
        health: of the output.
        reads: returns how often the metrics were read.
        look: returns why the output is not available, None if it is.
    """
    attempts, read = health.attempts, reads()
    while True:
        await trio.sleep(LOOK_S)
        idle, wanted = health.attempts == attempts, reads() != read
        attempts, read = health.attempts, reads()
        if not idle or not wanted:
            continue
        trouble = await look()
        if health.attempts == attempts:  # else a file has come, and knows better
            health.note(CONNECTION, trouble)
            attempts = health.attempts
