"""`/shared-files`: files that nodes give to each other, kept until they expire or passed on."""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Final

import trio
from quart import Blueprint, Response, request

from relayd.api import answers
from relayd.api.places import Places
from relayd.api.server.raw_path import rest_of_path
from relayd.errors import PeerError
from relayd.fleet.current_nodes import CurrentNodes
from relayd.shared.metadata import MetadataError, parse_metadata, parse_ttl
from relayd.shared.paths import PathError, check_ids
from relayd.shared.receiving import Outcome, Receiver, Upload
from relayd.shared.store import Store
from relayd.shared.upstream import Ids, UpstreamFiles
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("shared_files")

ROOM: Final = "/shared-files/"
#: An upload may take this long, and a second more for each `SLOWEST` bytes.
PATIENCE_S: Final = 30.0
SLOWEST: Final = 32 * 1024
#: Uploads at once; each holds 1.7 MiB at most, and its content on disk. One node gets a part of
#: them, so that one alone cannot keep the others out.
UPLOADS: Final = 16
UPLOADS_OF_ONE: Final = 4
HEAD_TIMEOUT_S: Final = 20.0

_RULE: Final = f"{ROOM}<rest:_path>"

_STATUS: Final = {
    Outcome.STORED: 200,
    Outcome.MALFORMED: 400,
    Outcome.MISMATCH: 400,
    Outcome.UNKNOWN: 404,
    Outcome.SLOW: 408,
    Outcome.SIGNATURE: 500,
    Outcome.STORE: 500,
    Outcome.UPSTREAM: 502,
    Outcome.BUSY: 503,
    Outcome.NO_SPACE: 507,
}
_DETAILS: Final = {
    Outcome.MALFORMED: "invalid metadata",
    Outcome.MISMATCH: "hash_value is not that of the content",
    Outcome.SLOW: "the upload took too long",
    Outcome.SIGNATURE: "invalid signature",
    Outcome.STORE: "it could not be stored",
    Outcome.UPSTREAM: "no answer from the policy server",
    Outcome.BUSY: "too many uploads",
    Outcome.NO_SPACE: "no space left",
}


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """What the routes need.

    Attributes:
        store: where files for nodes below are.
        trust: tells which nodes those are.
        metrics: of this service.
        max_body: bytes of an upload, metadata included.
        upstream: the way to files of nodes that are not below; None on the root server.
    """

    store: Store
    trust: CurrentNodes
    metrics: Metrics
    max_body: int
    upstream: UpstreamFiles | None = None


def shared_files_blueprint(files: SharedFiles) -> Blueprint:
    """`/shared-files/TARGET/SOURCE/FILE`, relative to the base of the API."""
    routes = Blueprint("shared_files", __name__)
    receiver = Receiver(files.store, lambda: files.trust.nodes)
    places = Places(UPLOADS, UPLOADS_OF_ONE)

    @routes.route(_RULE, methods=["PUT"], endpoint="putSharedFile")
    async def put(_path: str) -> Response:
        ids, problem = _ids(files)
        if problem is not None:
            return problem
        problem = _bad_length(files.max_body)
        if problem is not None:
            return problem
        try:
            ttl = parse_ttl(_single("ttl"))
        except ValueError:
            return _failure("invalid ttl", 400)
        outcome, detail, status = Outcome.BUSY, "", 0
        with places.taken(ids[1]) as taken:
            if taken:
                outcome, detail, status = await _receive(files, receiver, ids, ttl)
        files.metrics.shared_files.labels(outcome.value).inc()
        _tell(ids, outcome, detail, status)
        return _answer(outcome, status)

    @routes.route(_RULE, methods=["HEAD"], endpoint="headSharedFile")
    async def head(_path: str) -> Response:
        ids, problem = _ids(files)
        if problem is not None:
            return problem
        if files.trust.nodes.get(ids[0]) is not None:
            return answers.empty(await _look(files.store, ids, _single("hash")))
        with trio.move_on_after(HEAD_TIMEOUT_S):
            outcome, detail, status = await _pass_on(files, ids, None)
            if outcome is not Outcome.FORWARDED:
                log.warning("policy server not asked", file="/".join(ids), detail=detail)
            return _answer(outcome, status)
        log.warning("policy server did not answer in time", file="/".join(ids))
        return _answer(Outcome.UPSTREAM, 0)

    return routes


def _ids(files: SharedFiles) -> tuple[Ids, Response | None]:
    """Return the ids in the path; and the answer, if the request can go no further."""
    try:
        ids = check_ids(rest_of_path(ROOM))
    except PathError as error:
        log.info("shared file refused", reason="path", detail=str(error))
        return Ids("", "", ""), _failure("invalid id", 400)
    if not files.trust.ready.is_set():
        return ids, _failure("the nodes are not known yet", 503)
    if files.trust.nodes.get(ids[0]) is None and files.upstream is None:
        log.warning("shared file refused", reason="target", file="/".join(ids))
        return ids, _failure("unknown target", 500)
    return ids, None


def _bad_length(most: int) -> Response | None:
    size = request.content_length
    if size is None:
        return _failure("the length of the body is required", 411)
    return _failure(f"at most {most} bytes are taken", 413) if size > most else None


async def _receive(
    files: SharedFiles, receiver: Receiver, ids: Ids, ttl: float
) -> tuple[Outcome, str, int]:
    """Store an upload, or passes it on, within its deadline."""
    below = files.trust.nodes.get(ids[0]) is not None
    size = request.content_length or 0
    with trio.move_on_after(PATIENCE_S + size / SLOWEST):
        if below:
            return *await receiver.receive(Upload(*ids, ttl, request.body)), 0
        return await _pass_on(files, ids, request.body)
    return (Outcome.SLOW if below else Outcome.UPSTREAM), "it took too long", 0


async def _pass_on(
    files: SharedFiles, ids: Ids, body: AsyncIterable[bytes] | None
) -> tuple[Outcome, str, int]:
    """Make the request to the policy server above; with the status of its answer."""
    assert files.upstream is not None
    query = request.query_string.decode("ascii", "replace")
    size = request.content_length or 0
    try:
        status = await files.upstream.pass_on(request.method, ids, query, body, size)
    except PeerError as error:
        return Outcome.UPSTREAM, str(error), 0
    if 300 <= status < 400:
        return Outcome.UPSTREAM, f"it answered {status}, which is not followed", 0
    return Outcome.FORWARDED, "", status


async def _look(store: Store, ids: Ids, digest: str) -> int:
    """Return the status that tells whether the file is there, and this is the hash of its content."""
    try:
        metadata = parse_metadata(await in_thread(store.metadata, *ids))
    except (FileNotFoundError, NotADirectoryError):
        return 404
    except (MetadataError, OSError) as error:
        log.error("metadata cannot be read", file="/".join(ids), detail=str(error))
        return 404 if isinstance(error, MetadataError) else 500
    return 200 if metadata.hash_value.lower() == digest.lower() else 404


def _single(name: str) -> str:
    """Return a parameter of the query that must not be there twice; empty when it is or is missing."""
    values = request.args.getlist(name)
    return values[0] if len(values) == 1 else ""


def _tell(ids: Ids, outcome: Outcome, detail: str, status: int) -> None:
    bound = log.bind(node=ids[1], file="/".join(ids))
    if outcome is Outcome.STORED:
        bound.info("shared file stored")
    elif outcome is Outcome.FORWARDED:
        bound.info("shared file passed on", status=status)
    elif outcome in (Outcome.NO_SPACE, Outcome.STORE):
        bound.error("shared file not stored", reason=outcome.value, detail=detail)
    else:
        bound.warning("shared file refused", reason=outcome.value, detail=detail)


def _answer(outcome: Outcome, status: int) -> Response:
    status = status or _STATUS[outcome]
    if status == 404:
        return answers.not_found()
    if 200 <= status < 300:
        return answers.empty(status)
    return _failure(_DETAILS.get(outcome, "the policy server refused it"), status)


def _failure(details: str, status: int) -> Response:
    endpoint = (request.endpoint or "").rpartition(".")[2]
    return answers.failure(endpoint, details, status)
