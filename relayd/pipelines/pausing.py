"""What operators have paused: kept in a file, so that a pause survives a restart.

The file is written as well by `relayd pause` while no relayd runs. It is replaced as a whole, and
one that cannot be read pauses nothing.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from relayd.errors import UNDECODABLE, StartError
from relayd.overview.model import KIND_NAMES, Kind, Pause
from relayd.spool.watching.valve import Valve
from relayd.system.files import write_all
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("main")

FILE: Final = "paused.json"
KINDS: Final[tuple[Kind, ...]] = ("reporting", "inventories")
#: The key that switches each kind off.
_KEYS: Final[Mapping[Kind, str]] = {
    "reporting": "processing.reporting.output",
    "inventories": "processing.inventory.output",
}
_VERSION: Final = 1
#: The file is far smaller.
_LARGEST: Final = 65_536
#: The wall clock may be set meanwhile: how often the end of a pause is compared with it.
_LOOK_S: Final = 60.0


class PauseError(StartError):
    """A pause cannot be kept."""


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """The pause of one kind of files.

    Attributes:
        by: the user.
        since: Unix time.
        until: Unix time at which it ends by itself; None if it does not.
    """

    by: str
    since: float
    until: float | None = None


class NotProcessedError(StartError):
    """What is to be paused is not processed on this server."""


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    version: int = _VERSION


class _File(_Version, frozen=True, kw_only=True):
    paused: dict[Kind, Paused] = {}


def to_pause(asked: Sequence[Kind], processed: Sequence[Kind]) -> tuple[Kind, ...]:
    """Return the kinds of files that a pause concerns.

    Args:
        asked: what an operator has named; all that are processed if empty.
        processed: what this server processes.

    Raises:
        NotProcessedError: one of them, or none at all, is processed here.
    """
    for kind in asked or (() if processed else KINDS):
        if kind not in processed:
            raise NotProcessedError(
                f'{KIND_NAMES[kind]} are not processed here: {_KEYS[kind]} is "disabled"'
            )
    return tuple(asked or processed)


F = TypeVar("F", bound=_Version)


class PauseFile:
    """The file with the pauses.

    Args:
        directory: of the state of relayd.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def is_newer(self) -> bool:
        """Return whether a newer version of relayd has written the file; blocks.

        Raises:
            PauseError: see `read`.
        """
        return self._read(_Version()).version > _VERSION

    def read(self, now: float) -> dict[Kind, Paused]:
        """Return the pauses that have not ended; blocks.

        Raises:
            PauseError: the file is there, but cannot be read or is not one of these.
        """
        found = self._read(_File())
        return {
            kind: entry
            for kind, entry in found.paused.items()
            if entry.until is None or entry.until > now
        }

    def _read(self, default: F) -> F:
        """Return the content of the file; the default if there is none."""
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - a bounded part of it
                return msgspec.json.decode(file.read(_LARGEST), type=type(default))
        except FileNotFoundError:
            return default
        except OSError as error:
            problem = f"{self._path} cannot be read"
            raise PauseError(problem, reason=words_of(error)) from error
        except UNDECODABLE as error:
            problem = f"{self._path} is not a file of pauses"
            raise PauseError(problem, reason=str(error)) from error

    def write(self, paused: Mapping[Kind, Paused]) -> None:
        """Replace the file; blocks.

        Raises:
            PauseError: it cannot be written.
        """
        temporary = self._path.with_name(f".{FILE}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # One name, so that a kill leaves one file at most; never one that somebody else made.
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, flags, 0o644)
            try:
                os.fchmod(fd, 0o644)  # relayd reads what root has written
                write_all(fd, msgspec.json.encode(_File(paused=dict(paused))))
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.rename(self._path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise PauseError(f"{self._path} cannot be written: {words_of(error)}") from error


def begin_pause(
    file: PauseFile, kinds: Iterable[Kind], by: str, seconds: float | None, now: float
) -> dict[Kind, Paused]:
    """Add pauses to a file and return all of them; a pause that exists is replaced. Blocks.

    Args:
        file: with the pauses.
        kinds: what to pause.
        by: the user.
        seconds: after which it ends by itself; None if it does not.
        now: Unix time.

    Raises:
        PauseError: the file cannot be read or written; nothing has changed.
    """
    until = None if seconds is None else now + seconds
    paused = file.read(now) | {kind: Paused(by=by, since=now, until=until) for kind in kinds}
    file.write(paused)
    return paused


def end_pause(
    file: PauseFile, kinds: Iterable[Kind], now: float
) -> tuple[dict[Kind, Paused], list[Kind]]:
    """Remove pauses from a file; return what is left, and what was removed. Blocks.

    Raises:
        PauseError: the file cannot be read or written; nothing has changed.
    """
    paused = file.read(now)
    ended = [kind for kind in kinds if kind in paused]
    for kind in ended:
        del paused[kind]
    file.write(paused)
    return paused, ended


def as_pause(paused: Mapping[Kind, Paused]) -> Pause | None:
    """Return what to show of some pauses, None without any."""
    if not paused:
        return None
    first = min(paused.values(), key=lambda entry: entry.since)
    ends = [entry.until for entry in paused.values()]
    until = None if None in ends else max(end for end in ends if end is not None)
    return Pause(kinds=tuple(paused), by=first.by, since=first.since, until=until)


class Pausing:
    """The pauses of a running relayd, and the valves of its pipelines.

    Attributes:
        valves: of each kind of files.

    Args:
        file: keeps them.
        metrics: shows them.
        now: returns Unix time.
    """

    def __init__(
        self, file: PauseFile, metrics: Metrics, now: Callable[[], float] = time.time
    ) -> None:
        self.valves = {kind: Valve() for kind in KINDS}
        self._file = file
        self._metrics = metrics
        self._now = now
        self._paused: dict[Kind, Paused] = {}
        self._changed = Wake()
        self._lock = trio.Lock()

    @property
    def pause(self) -> Pause | None:
        """What is paused now."""
        return as_pause(self._paused)

    async def load(self) -> None:
        """Take over the pauses from before the start."""
        try:
            self._apply(await in_thread(self._file.read, self._now()))
        except PauseError as error:
            log.warning("pauses are not known; nothing is paused", detail=str(error))

    async def begin(self, kinds: Iterable[Kind], by: str, seconds: float | None) -> None:
        """Pause; see `begin_pause`.

        Raises:
            PauseError: it could not be kept; nothing has changed.
        """
        async with self._lock:
            work = partial(begin_pause, self._file, kinds, by, seconds, self._now())
            self._apply(await in_thread(work))

    async def end(self, kinds: Iterable[Kind]) -> list[Kind]:
        """End pauses, and return which; see `end_pause`.

        Raises:
            PauseError: it could not be kept; nothing has changed.
        """
        async with self._lock:
            paused, ended = await in_thread(partial(end_pause, self._file, kinds, self._now()))
            self._apply(paused)
            return ended

    def _apply(self, paused: Mapping[Kind, Paused]) -> None:
        self._paused = dict(paused)
        for kind, valve in self.valves.items():
            valve.set(closed=kind in paused)
            self._metrics.paused.labels(kind).set(kind in paused)
        self._changed.set()

    async def run(self) -> None:
        """End pauses when their time has come; run forever."""
        while True:
            ends = [entry.until for entry in self._paused.values() if entry.until is not None]
            wait = min(ends, default=math.inf) - self._now()
            with trio.move_on_after(min(max(0.0, wait), _LOOK_S if ends else math.inf)):
                await self._changed.wait()
                continue
            async with self._lock:
                await self._end_due()

    async def _end_due(self) -> None:
        now = self._now()
        left = {
            kind: entry
            for kind, entry in self._paused.items()
            if entry.until is None or entry.until > now
        }
        if left != self._paused:
            ended = ",".join(kind for kind in self._paused if kind not in left)
            log.info("pause ended by itself", kinds=ended)
            self._apply(left)
            # Once the clock is set back, one that is still in the file would not have ended.
            try:
                await in_thread(self._file.write, left)
            except PauseError as error:
                log.warning("pause ended, but is still in its file", detail=str(error))
