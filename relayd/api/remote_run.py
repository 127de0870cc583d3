"""The routes that start agents, and the one about the way to a node: `/remote-run/…`."""

import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody
from werkzeug.exceptions import LengthRequired, RequestTimeout, UnsupportedMediaType

from relayd.api import answers
from relayd.errors import NodesError, RelaydError
from relayd.fleet.nodes import MAX_LEVELS
from relayd.remote_run.answer import Sink
from relayd.remote_run.audit import Requester
from relayd.remote_run.hop import HOPS_HEADER, NDJSON
from relayd.remote_run.request import (
    RequestError,
    RunRequest,
    read_form,
    read_nodes,
    read_run_request,
)
from relayd.remote_run.runs import ActiveRun, BusyError, RemoteRuns

#: Seconds for a client to send its form.
BODY_TIMEOUT_S: Final = 30.0
_FORM: Final = "application/x-www-form-urlencoded"
_TEXT: Final = "text/plain; charset=utf-8"


def remote_run_blueprint(runs: RemoteRuns) -> Blueprint:
    """Return `/remote-run/…`, relative to the base of the API. Endpoints are named by action."""
    routes = Blueprint("remote_run", __name__, url_prefix="/remote-run")

    @routes.post("/nodes/<node_id>", endpoint="remoteRunNode")
    async def run_node(node_id: str) -> Response:
        fields = await _form()
        return await _answer(runs, _wanted(fields, (node_id,)))

    @routes.post("/nodes", endpoint="remoteRunNodes")
    async def run_nodes() -> Response:
        fields = await _form()
        return await _answer(runs, _wanted(fields, read_nodes(fields)))

    @routes.post("/all", endpoint="remoteRunAll")
    async def run_all() -> Response:
        return await _answer(runs, _wanted(await _form(), None))

    @routes.errorhandler(RequestError)
    async def refuse(error: RequestError) -> Response:
        return Response(f"{error}", status=400, content_type=_TEXT)

    return routes


#: Returns what this relay and those below it say of a node, None if it is not below; the number is
#: that of relays that have passed the question on. Raises `RelaydError`.
AskWay = Callable[[str, int], Awaitable[dict[str, Any] | None]]


def way_blueprint(ask: AskWay) -> Blueprint:
    """Return `/remote-run/status/NODE`, which only reads, whether remote runs are on or not."""
    routes = Blueprint("remote_run_status", __name__, url_prefix="/remote-run")

    @routes.get("/status/<node_id>", endpoint="getRemoteRunStatus")
    async def status(node_id: str) -> Response:
        action, passed = "getRemoteRunStatus", _hops()
        if passed > MAX_LEVELS:
            return answers.failure(action, f"passed on by more than {MAX_LEVELS} relays", 508)
        try:
            document = await ask(node_id, passed)
        except RelaydError as error:
            return answers.failure(action, str(error), 503)
        if document is None:
            return answers.failure(action, "no such node is below this server", 404)
        return answers.success(action, document)

    return routes


async def _form() -> dict[str, str]:
    if request.content_length is None:
        raise LengthRequired
    if request.mimetype not in ("", _FORM):
        raise UnsupportedMediaType
    try:
        with trio.fail_after(BODY_TIMEOUT_S):
            body = await request.get_data(as_text=False)
    except trio.TooSlowError:
        raise RequestTimeout from None
    assert isinstance(body, bytes)
    return read_form(body)


def _wanted(fields: dict[str, str], nodes: tuple[str, ...] | None) -> RunRequest:
    events = any(
        name.lower() == NDJSON and quality > 0 for name, quality in request.accept_mimetypes
    )
    return read_run_request(fields, nodes, events=events, hops=_hops())


def _hops() -> int:
    text = request.headers.get(HOPS_HEADER, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0


async def _answer(runs: RemoteRuns, wanted: RunRequest) -> Response:
    action = request.endpoint.rpartition(".")[2] if request.endpoint else ""
    if wanted.hops > MAX_LEVELS:
        return answers.failure(action, f"passed on by more than {MAX_LEVELS} relays", 508)
    requester = Requester(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""))
    try:
        await runs.known()
        run = runs.start(wanted, requester)
    except (BusyError, NodesError) as error:
        busy = answers.failure(action, str(error), 503)
        busy.headers["Retry-After"] = "10"
        return busy
    try:
        return await _follow(run, action)
    except trio.Cancelled:
        run.answer.leave()
        raise


async def _follow(run: ActiveRun, action: str) -> Response:
    wanted = run.request
    await run.decided.wait()
    if run.failure is not None:
        return answers.failure(action, run.failure)
    has_body = wanted.keep_output or wanted.events
    if not wanted.asynchronous:
        await run.done.wait()
    content_type = NDJSON if wanted.events else _TEXT
    body: ResponseBody | bytes = AnswerBody(run.answer) if has_body else b""
    return Response(body, content_type=content_type)


class AnswerBody(ResponseBody):
    """The answer of a run; when its client disconnects, the run continues without one."""

    def __init__(self, answer: Sink) -> None:
        self._answer = answer
        self._begun = False
        # If the client disconnects before the body is entered, the run must not wait for a reader.
        weakref.finalize(self, answer.leave)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._answer.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            # Hypercorn sends the head with the first piece, and relays wait for the head.
            self._begun = True
            return b""
        return await anext(self._answer)
