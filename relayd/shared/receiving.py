"""Reception of uploaded shared files: check the sender and the signature, then store the file.

The signature is the only proof of who sent a file: the web server in front lets any node upload.
"""

import errno
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

import trio

from relayd.fleet.nodes import KeyHash, Nodes
from relayd.shared.metadata import MAX_SIZE, Metadata, MetadataError, parse_metadata
from relayd.shared.stage import Stage
from relayd.shared.store import Store
from relayd.shared.usage import QuotaError, Usage
from relayd.system.threads import in_thread
from relayd.telemetry.metrics import UploadOutcome

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SEPARATOR: Final = b"\n\n"
#: Matches no key. It is compared for unknown nodes too, so that their requests take as long.
_NO_HASH: Final = KeyHash("sha256", bytes(32))
#: For removing the data written so far when the client disconnects.
CLEANUP_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an upload.

    Attributes:
        outcome: for the metric.
        detail: one line for the log; None if there is nothing to explain.
        status: HTTP status of the policy server's answer; None unless it was forwarded.
    """

    outcome: UploadOutcome
    detail: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A shared file on its way.

    Attributes:
        target: id of the node that it is for.
        source: id of the node that it claims to come from.
        file: id of the file.
        ttl: seconds from its arrival until it may be removed.
        size: bytes of the body.
        body: metadata, an empty line, the content; iteration raises `TooSlowError`.
    """

    target: str
    source: str
    file: str
    ttl: float
    size: int
    body: AsyncIterator[bytes]


class TooSlowError(Exception):
    """A client does not send its body fast enough."""


class Paced:
    """A body whose client has to keep up a rate, averaged over the whole upload.

    Only the time in which the client is waited for counts, so that a slow disk or a slow policy
    server is not taken for a slow client.

    Args:
        body: the parts of the body as they arrive.
        patience: seconds that the client may use in addition.
        slowest: bytes per second that it must send.
    """

    def __init__(self, body: AsyncIterator[bytes], patience: float, slowest: int) -> None:
        self._body = body
        self._left = patience
        self._slowest = slowest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        start = trio.current_time()
        with trio.move_on_after(self._left):
            data = await anext(self._body)
            self._left += len(data) / self._slowest - (trio.current_time() - start)
            return data
        raise TooSlowError


class Receiver:
    """Receives uploads for nodes below this policy server.

    Args:
        store: the store for their files.
        nodes: returns the current nodes.
        usage: what each source has, and may have.
        threads: maximum number of threads that write.
    """

    def __init__(
        self, store: Store, nodes: Callable[[], Nodes], usage: Usage, threads: int = 8
    ) -> None:
        self._store = store
        self._usage = usage
        self._nodes = nodes
        self._limiter = trio.CapacityLimiter(threads)

    async def receive(self, upload: Upload) -> Result:
        """Read an upload to its end, or to the first thing wrong with it.

        Memory does not grow with the content. Whatever goes wrong, what was stored before stays.

        Raises:
            TooSlowError: the client did not send fast enough.
        """
        try:
            head, start = await _split(upload.body)
            metadata = parse_metadata(head)
        except MetadataError as error:
            return Result(UploadOutcome.MALFORMED, str(error))
        problem = self._foreign_key(upload.source, metadata)
        if problem is not None:
            return Result(UploadOutcome.UNKNOWN, problem)
        try:
            content = upload.size - len(head) - len(_SEPARATOR)
            place = (upload.target, upload.source, upload.file)
            replaced = await self._in_thread(self._store.size, *place)
            with self._usage.reserved(upload.source, content, replaced):
                return await self._take(upload, metadata, start)
        except QuotaError as error:
            return Result(UploadOutcome.QUOTA, str(error))
        except OSError as error:
            full = error.errno in _NO_SPACE
            outcome = UploadOutcome.NO_SPACE if full else UploadOutcome.STORE
            return Result(outcome, str(error))

    def _foreign_key(self, source: str, metadata: Metadata) -> str | None:
        """Return why the key is not that of the source; None if it is.

        The sender gets the same answer for every cause.
        """
        node = self._nodes().get(source)
        key_hash = node.key_hash if node is not None else None
        matches = (key_hash or _NO_HASH).matches(metadata.spki())
        if node is None:
            return "the source is not in the nodes list"
        if key_hash is None:
            return "the nodes list has no key hash of the source"
        return None if matches else "the key is not that of the source"

    async def _take(self, upload: Upload, metadata: Metadata, start: bytes) -> Result:
        stage = await self._in_thread(
            self._store.open_stage, upload.target, upload.file, metadata.algorithm
        )
        try:
            await self._in_thread(stage.write, start)
            async for data in upload.body:
                await self._in_thread(stage.write, data)
            digest = stage.digest()
            if not metadata.is_signed(digest):
                return Result(UploadOutcome.SIGNATURE, "the content is not what was signed")
            if bytes.fromhex(metadata.hash_value) != digest:
                return Result(UploadOutcome.MISMATCH, "hash_value is not that of the content")
            await self._put(stage, upload, int(time.time() + upload.ttl), metadata)
        finally:
            with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
                await in_thread(stage.close)
        return Result(UploadOutcome.STORED)

    async def _put(self, stage: Stage, upload: Upload, expires: int, metadata: Metadata) -> None:
        def put() -> None:
            replaced = self._store.put(stage, upload.source, metadata.expiring(expires).text())
            self._usage.added(upload.target, upload.source, stage.size, replaced, expires)

        await self._in_thread(put)

    async def _in_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await in_thread(work, *args, limiter=self._limiter)


async def _split(body: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """Return the metadata and as much of the content as has arrived with them."""
    data = b""
    async for part in body:
        data += part
        end = data.find(_SEPARATOR, 0, MAX_SIZE)
        if end >= 0:
            return data[:end], data[end + len(_SEPARATOR) :]
        if len(data) > MAX_SIZE:
            break
    raise MetadataError("no empty line after the metadata")
