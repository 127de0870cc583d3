"""`/shared-files`: files that nodes give to each other, kept until they expire or forwarded."""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Final

import trio
from quart import Blueprint, Response, request

from relayd.api import answers
from relayd.api.fair_limiter import Bounds, FairLimiter
from relayd.api.server.raw_path import last_value, rest_of_path
from relayd.errors import NodesError, PeerError
from relayd.fleet.current_nodes import CurrentNodes
from relayd.shared.metadata import MetadataError, parse_metadata, parse_ttl
from relayd.shared.paths import PathError, SharedFileId, check_ids
from relayd.shared.receiving import Paced, Receiver, Result, TooSlowError, Upload
from relayd.shared.store import Store
from relayd.shared.upstream import UpstreamFiles
from relayd.shared.usage import Usage
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics, UploadOutcome

log = get_logger("shared_files")

PREFIX: Final = "/shared-files/"
#: A client may take this many seconds to send its upload, and one more for every `SLOWEST` bytes
#: that have arrived; what is forwarded may take as long for every byte that is announced.
PATIENCE_S: Final = 20.0
FORWARD_S: Final = 30.0
SLOWEST: Final = 32 * 1024
#: An upload in progress takes at most 0.8 MiB of memory, one that waits 0.2 MiB. A node gets only
#: a part of them, so that it cannot keep the others out.
UPLOADS: Final = Bounds(total=32, each=8, waiting=256)
HEAD_TIMEOUT_S: Final = 20.0

_RULE: Final = f"{PREFIX}<rest:_path>"

_STATUS: Final = {
    UploadOutcome.STORED: 200,
    UploadOutcome.MALFORMED: 400,
    UploadOutcome.MISMATCH: 400,
    UploadOutcome.UNKNOWN: 404,
    UploadOutcome.SLOW: 408,
    UploadOutcome.SIGNATURE: 500,
    UploadOutcome.STORE: 500,
    UploadOutcome.UPSTREAM: 502,
    UploadOutcome.BUSY: 503,
    UploadOutcome.NO_SPACE: 507,
    UploadOutcome.QUOTA: 507,
}
_DETAILS: Final = {
    UploadOutcome.MALFORMED: "invalid metadata",
    UploadOutcome.MISMATCH: "hash_value is not that of the content",
    UploadOutcome.SLOW: "the upload took too long",
    UploadOutcome.SIGNATURE: "invalid signature",
    UploadOutcome.STORE: "it could not be stored",
    UploadOutcome.UPSTREAM: "no answer from the policy server",
    UploadOutcome.BUSY: "too many uploads",
    UploadOutcome.NO_SPACE: "no space left",
    UploadOutcome.QUOTA: "the source has too many files, or too large ones",
}


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """What the routes need.

    Attributes:
        store: holds files for nodes below this server.
        trust: lists those nodes.
        metrics: of this service.
        usage: what each source has, and may have.
        max_body: maximum size of an upload in bytes, metadata included.
        max_ttl: seconds after which a file may be removed, however long its sender wants it kept.
        upstream: forwards requests for other nodes; None on the root server.
    """

    store: Store
    trust: CurrentNodes
    metrics: Metrics
    usage: Usage
    max_body: int
    max_ttl: float
    upstream: UpstreamFiles | None = None


def shared_files_blueprint(files: SharedFiles) -> Blueprint:
    """Return the route `/shared-files/TARGET/SOURCE/FILE`, relative to the base of the API."""
    routes = Blueprint("shared_files", __name__)
    receiver = Receiver(files.store, lambda: files.trust.nodes, files.usage)
    limiter = FairLimiter(UPLOADS)

    @routes.route(_RULE, methods=["PUT"], endpoint="putSharedFile")
    async def put(_path: str) -> Response:
        ids = await _ids(files)
        if isinstance(ids, Response):
            return ids
        problem = _bad_length(files.max_body)
        if problem is not None:
            return problem
        try:
            ttl = min(parse_ttl(last_value("ttl")), files.max_ttl)
        except ValueError:
            return _failure("invalid ttl", 400)
        result = Result(UploadOutcome.BUSY)
        async with limiter.admit(ids[1]) as admitted:
            if admitted:
                result = await _receive(files, receiver, ids, ttl)
        files.metrics.shared_files.labels(result.outcome.value).inc()
        _log(ids, result)
        return _answer(result)

    @routes.route(_RULE, methods=["HEAD"], endpoint="headSharedFile")
    async def head(_path: str) -> Response:
        ids = await _ids(files)
        if isinstance(ids, Response):
            return ids
        if files.trust.nodes.get(ids[0]) is not None:
            return answers.empty(await _stored_status(files.store, ids, last_value("hash")))
        with trio.move_on_after(HEAD_TIMEOUT_S):
            result = await _forward(files, ids, None)
            if result.outcome is not UploadOutcome.FORWARDED:
                log.warning(
                    "policy server did not answer", file="/".join(ids), detail=result.detail
                )
            return _answer(result)
        log.warning("policy server did not answer in time", file="/".join(ids))
        return _answer(Result(UploadOutcome.UPSTREAM))

    return routes


async def _ids(files: SharedFiles) -> SharedFileId | Response:
    """Return the ids in the path, or the answer that rejects the request."""
    try:
        ids = check_ids(rest_of_path(PREFIX).removesuffix(b"/"))
    except PathError as error:
        log.info("shared file refused", reason="path", detail=str(error))
        return _failure("invalid id", 400)
    try:
        await files.trust.known()
    except NodesError as error:
        return _failure(str(error), 503)
    if files.trust.nodes.get(ids[0]) is None and files.upstream is None:
        log.warning("shared file refused", reason="target", file="/".join(ids))
        return _failure("unknown target", 500)
    return ids


def _bad_length(most: int) -> Response | None:
    size = request.content_length
    if size is None:
        return _failure("the length of the body is required", 411)
    return _failure(f"at most {most} bytes are taken", 413) if size > most else None


async def _receive(files: SharedFiles, receiver: Receiver, ids: SharedFileId, ttl: float) -> Result:
    """Store or forward an upload within its deadline."""
    below = files.trust.nodes.get(ids[0]) is not None
    size = request.content_length or 0
    try:
        if below:
            body = Paced(request.body, PATIENCE_S, SLOWEST)
            return await receiver.receive(Upload(*ids, ttl, size, body))
        with trio.move_on_after(FORWARD_S + size / SLOWEST):
            return await _forward(files, ids, Paced(request.body, PATIENCE_S, SLOWEST))
    except TooSlowError:
        return Result(UploadOutcome.SLOW, "the client sends too slowly")
    return Result(UploadOutcome.UPSTREAM, "it took too long")


async def _forward(
    files: SharedFiles, ids: SharedFileId, body: AsyncIterable[bytes] | None
) -> Result:
    """Send the request to the policy server above."""
    assert files.upstream is not None
    query = request.query_string.decode("ascii", "replace")
    size = request.content_length or 0
    try:
        status = await files.upstream.pass_on(request.method, ids, query, body, size)
    except PeerError as error:
        return Result(UploadOutcome.UPSTREAM, str(error))
    if 300 <= status < 400:
        return Result(UploadOutcome.UPSTREAM, f"redirect with status {status} not followed")
    return Result(UploadOutcome.FORWARDED, status=status)


async def _stored_status(store: Store, ids: SharedFileId, digest: str) -> int:
    """Return 200 if the file exists and its content has this hash, else 404 or 500."""
    try:
        metadata = parse_metadata(await in_thread(store.metadata, *ids))
    except (FileNotFoundError, NotADirectoryError):
        return 404
    except (MetadataError, OSError) as error:
        log.error("metadata cannot be read", file="/".join(ids), detail=str(error))
        return 404 if isinstance(error, MetadataError) else 500
    return 200 if metadata.hash_value.lower() == digest.lower() else 404


def _log(ids: SharedFileId, result: Result) -> None:
    bound = log.bind(node=ids[1], file="/".join(ids))
    outcome, detail = result.outcome, result.detail or ""
    if outcome is UploadOutcome.STORED:
        bound.info("shared file stored")
    elif outcome is UploadOutcome.FORWARDED:
        bound.info("shared file forwarded", status=result.status)
    elif outcome in (UploadOutcome.NO_SPACE, UploadOutcome.STORE):
        bound.error("shared file not stored", reason=outcome.value, detail=detail)
    else:
        bound.warning("shared file refused", reason=outcome.value, detail=detail)


def _answer(result: Result) -> Response:
    status = _STATUS[result.outcome] if result.status is None else result.status
    if status == 404:
        return answers.not_found()
    if 200 <= status < 300:
        return answers.empty(status)
    return _failure(_DETAILS.get(result.outcome, "the policy server refused it"), status)


def _failure(details: str, status: int) -> Response:
    endpoint = (request.endpoint or "").rpartition(".")[2]
    return answers.failure(endpoint, details, status)
