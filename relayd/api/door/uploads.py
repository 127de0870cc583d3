"""Uploads into the spools: a file appears under its name only whole and on disk.

An answer of 201 or 204 means that the file survives a crash of this machine. Whatever else
happens, nothing of the upload is left.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import trio
from hypercorn.typing import HTTPScope

from relayd.api.door.answering import Answer, header_of
from relayd.api.fair_limiter import Bounds, FairLimiter
from relayd.api.server.connection import Receive
from relayd.errors import Refused
from relayd.fleet.admission import trusted_certificates
from relayd.fleet.current_nodes import CurrentNodes
from relayd.runlog.filename import parse_name
from relayd.shared.receiving import Paced, TooSlowError
from relayd.spool.layout import TEMPORARY
from relayd.system.files import exists_at, write_all
from relayd.system.printable import printable
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import DoorOutcome, Metrics

log = get_logger("api")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: One takes 0.3 MB of memory while it is received, and 0.1 MB while it waits.
AT_ONCE: Final = Bounds(total=128, each=32, waiting=256)
#: A client may take this many seconds to send its upload, and one more for every `SLOWEST` bytes.
PATIENCE_S: Final = 20.0
SLOWEST: Final = 2 * 1024
#: Seconds after which an agent or relay may try again.
RETRY_AFTER_S: Final = 60
CLEANUP_TIMEOUT_S: Final = 10.0

#: An upload begins under such a name. It has none of the extensions of a spool.
PREFIX: Final = f"{TEMPORARY}upload."
_GATHERED: Final = 64 * 1024
_SHOWN: Final = 200
_MAX_NAME: Final = 255
_MODE: Final = 0o640
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Target:
    """A directory for uploads.

    Attributes:
        directory: where files appear.
        max_size: bytes of one.
        run_logs: whether they are run logs, whose names say of which node they are.
    """

    directory: Path
    max_size: int
    run_logs: bool = False


class _CutError(Exception):
    """The client disconnected before the end of its upload."""


class _TooLargeError(Exception):
    """The upload is larger than its target allows."""


class Draft:
    """An upload that is being written. All methods block, and raise OSError.

    Args:
        directory: where it will appear.
    """

    def __init__(self, directory: Path) -> None:
        self._name = f"{PREFIX}{os.getpid()}.{secrets.token_hex(8)}"
        self._directory = os.open(directory, _DIRECTORY)
        self._file = -1
        try:
            self._file = os.open(self._name, _CREATE, _MODE, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise

    def write(self, data: bytes | bytearray) -> None:
        """Append to it."""
        write_all(self._file, data)

    def commit(self, name: str) -> bool:
        """Give it its name, once it is on disk; return whether nothing had that name before."""
        os.fsync(self._file)
        new = not exists_at(name, self._directory)
        os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._name = ""
        os.fsync(self._directory)
        return new

    def close(self) -> None:
        """Remove it unless it was committed."""
        try:
            if self._name:
                with suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._directory)
        finally:
            try:
                os.close(self._file)  # may fail on a full disk of another machine
            finally:
                os.close(self._directory)


def remove_leftovers(directories: Iterable[Path]) -> None:
    """Remove what a killed relayd left of uploads; to be called while no upload runs. Blocks."""
    for directory in directories:
        with suppress(OSError):  # another check reports a directory that cannot be used
            for path in directory.glob(f"{PREFIX}*"):
                path.unlink(missing_ok=True)


class Uploads:
    """Receives uploads.

    Args:
        trust: knows the nodes.
        metrics: counts the outcomes.
        min_free: bytes of a disk below which nothing is taken.
        refuse_early: whether run logs are refused if their name suffices.
    """

    def __init__(
        self, trust: CurrentNodes, metrics: Metrics, min_free: int, *, refuse_early: bool
    ) -> None:
        self._trust = trust
        self._metrics = metrics
        self._min_free = min_free
        self._refuse_early = refuse_early
        self._limiter = FairLimiter(AT_ONCE)
        self._threads = trio.CapacityLimiter(16)

    async def take(
        self, scope: HTTPScope, receive: Receive, target: Target, name: str, client: str
    ) -> Answer:
        """Receive one upload of an authenticated client.

        Args:
            scope: the request.
            receive: gives its body; the first call makes the client send it.
            target: where it goes.
            name: its name there, which is no path and does not begin with a dot.
            client: whose uploads are counted together.
        """
        # Unless it comes to an end: its connection may be cut at any time.
        outcome = DoorOutcome.CUT
        try:
            outcome, answer = await self._take(scope, receive, target, name, client)
        finally:
            self._metrics.uploads.labels(outcome.value).inc()
            if outcome is DoorOutcome.CUT:
                log.info("upload cut off", file=printable(name, _SHOWN))
        return answer

    async def _take(
        self, scope: HTTPScope, receive: Receive, target: Target, name: str, client: str
    ) -> tuple[DoorOutcome, Answer]:
        refusal = self._refusal(scope, target, name)
        if refusal is not None:
            return DoorOutcome.REFUSED, refusal
        async with self._limiter.admit(client) as admitted:
            if not admitted:
                return DoorOutcome.BUSY, _later("too many uploads")
            return await self._receive(scope, receive, target, name)

    def _refusal(self, scope: HTTPScope, target: Target, name: str) -> Answer | None:
        """Return the answer to a request that is refused for its head."""
        if scope["method"] != "PUT":
            return Answer(405, headers=((b"allow", b"PUT"),))
        # Partial content would need the rest of the file.
        if header_of(scope, b"content-range") is not None:
            return Answer(400, "no partial uploads")
        if len(os.fsencode(name)) > _MAX_NAME:
            return Answer(400, "name too long")
        if (_length(scope) or 0) > target.max_size:
            return Answer(413, f"at most {target.max_size} bytes are taken")
        return self._early_refusal(name) if target.run_logs and self._refuse_early else None

    def _early_refusal(self, name: str) -> Answer | None:
        parsed = parse_name(name)
        if isinstance(parsed, Refused):
            return self._log_refusal(name, parsed, 400)
        if not self._trust.ready.is_set():
            return None
        certificates = trusted_certificates(parsed.node_id, self._trust.nodes)
        if isinstance(certificates, Refused):
            return self._log_refusal(name, certificates, 403)
        return None

    @staticmethod
    def _log_refusal(name: str, refused: Refused, status: int) -> Answer:
        log.warning("upload refused", file=printable(name, _SHOWN), reason=refused.reason.value)
        return Answer(status, "not a run log of a known node")

    async def _receive(
        self, scope: HTTPScope, receive: Receive, target: Target, name: str
    ) -> tuple[DoorOutcome, Answer]:
        shown = printable(name, _SHOWN)
        try:
            if not await self._in_thread(self._has_space, target.directory, _length(scope) or 0):
                log.warning("upload refused, the disk is nearly full", file=shown)
                return DoorOutcome.NO_SPACE, _later("no space left")
            body = Paced(_Body(receive, target.max_size), PATIENCE_S, SLOWEST)
            new = await self._write(body, target.directory, name)
        except _CutError:
            return DoorOutcome.CUT, Answer(400, "cut off")
        except TooSlowError:
            log.warning("upload too slow", file=shown)
            return DoorOutcome.SLOW, Answer(408, "too slow")
        except _TooLargeError:
            return DoorOutcome.REFUSED, Answer(413, f"at most {target.max_size} bytes are taken")
        except OSError as error:
            log.error("upload not stored", file=shown, detail=str(error))
            if error.errno in _NO_SPACE:
                return DoorOutcome.NO_SPACE, _later("no space left")
            return DoorOutcome.ERROR, Answer(500, "it could not be stored")
        log.debug("upload stored", file=shown, replaced=not new)
        return DoorOutcome.STORED, Answer(201 if new else 204)

    def _has_space(self, directory: Path, size: int) -> bool:
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize >= self._min_free + size

    async def _write(self, body: Paced, directory: Path, name: str) -> bool:
        """Write the body to a file; return whether nothing had its name before.

        Most uploads are small, and written by a single call in a thread.
        """
        draft: Draft | None = None
        gathered = bytearray()
        try:
            async for data in body:
                gathered += data
                if len(gathered) >= _GATHERED:
                    if draft is None:
                        draft = await self._in_thread(Draft, directory)
                    await self._in_thread(draft.write, gathered)
                    gathered = bytearray()
            if draft is None:
                return await self._in_thread(_store, directory, name, gathered)
            return await self._in_thread(_finish, draft, name, gathered)
        finally:
            if draft is not None:
                with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
                    await in_thread(draft.close)

    async def _in_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await in_thread(work, *args, limiter=self._threads)


def _store(directory: Path, name: str, data: bytearray) -> bool:
    draft = Draft(directory)
    try:
        return _finish(draft, name, data)
    finally:
        draft.close()


def _finish(draft: Draft, name: str, data: bytearray) -> bool:
    draft.write(data)
    return draft.commit(name)


def _later(detail: str) -> Answer:
    return Answer(503, detail, ((b"retry-after", b"%d" % RETRY_AFTER_S),))


def _length(scope: HTTPScope) -> int | None:
    value = header_of(scope, b"content-length")
    return None if value is None else int(value)


class _Body:
    """The parts of a request body, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit
        self._ended = False

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            message = await self._receive()
            if message["type"] != "http.request":
                raise _CutError
            self._ended = not message.get("more_body", False)
            data = message.get("body", b"")
            self._left -= len(data)
            if self._left < 0:
                raise _TooLargeError
            if data:
                return data
        raise StopAsyncIteration
