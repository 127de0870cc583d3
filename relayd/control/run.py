"""`POST /run`: starts agents, and reports each event of the run as it happens."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec
from quart import Blueprint, Response

from relayd.api.remote_run import AnswerBody
from relayd.control.audit import audit, current_caller
from relayd.control.requests import BadRequestError, answering, failure_of, read_body
from relayd.errors import RelaydError
from relayd.fleet.finding import NoSuchNodeError, find_node
from relayd.fleet.nodes import MAX_LEVELS, Nodes
from relayd.remote_run.answer import Sink
from relayd.remote_run.audit import Requester
from relayd.remote_run.events import named
from relayd.remote_run.hop import NDJSON
from relayd.remote_run.plan import Plan, make_plan
from relayd.remote_run.request import RequestError, RunRequest, read_conditions
from relayd.remote_run.runs import RemoteRuns
from relayd.system.threads import in_thread

#: Names in one piece of an answer: some 50 kB.
_PIECE: Final = 500
#: Parts of names in one request: each is looked for among all nodes.
_MAX_PARTS: Final = 1000


class RunChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request.

    Attributes:
        nodes: ids, host names, or unique parts of either.
        everything: all nodes below this policy server, `all` in JSON.
        conditions: names to be defined in the agents.
    """

    nodes: tuple[str, ...] = ()
    everything: bool = msgspec.field(name="all", default=False)
    conditions: tuple[str, ...] = ()


class NodeLine(msgspec.Struct, frozen=True, tag_field="event", tag="node"):
    """The line in front of the events that says what a node or relay is called.

    Attributes:
        node: node id.
        hostname: may be empty.
    """

    node: str
    hostname: str


def run_blueprint(runs: RemoteRuns | None, nodes: Callable[[], Nodes]) -> Blueprint:
    """Return the routes of remote runs.

    Args:
        runs: starts agents; None if that is switched off.
        nodes: returns the current nodes.
    """
    routes = Blueprint("run", __name__)

    @routes.get("/run", endpoint="getRun")
    @answering("getRun")
    async def count() -> dict[str, int]:
        await _enabled(runs).known()
        plan = await make_plan(RunRequest(None), nodes())
        return {"nodes": sum(1 for _ in plan.nodes())}

    @routes.post("/run", endpoint="run")
    async def run() -> Response:
        try:
            return await _start(_enabled(runs), nodes)
        except RelaydError as error:
            return failure_of("run", error)

    return routes


def _enabled(runs: RemoteRuns | None) -> RemoteRuns:
    if runs is None:
        raise RelaydError("remote runs are switched off: remote_run.enabled is false")
    return runs


async def _start(runs: RemoteRuns, current: Callable[[], Nodes]) -> Response:
    """Accept a run; its client, once it has disconnected, does not end it."""
    choice = await read_body(RunChoice)
    conditions = _conditions(choice)
    await runs.known()
    nodes = current()
    targets = await _targets(choice, nodes)
    wanted = RunRequest(targets, conditions, asynchronous=True, keep_output=True, events=True)
    plan = await make_plan(wanted, nodes)
    caller = current_caller()
    user = await in_thread(caller.name, abandon_on_cancel=True)
    run = runs.start(wanted, Requester(f"user {user}", ""))
    # From here on the answer lets the run go on if this task is cancelled.
    body = _NamedBody(run.answer, _names(plan, nodes))
    await audit(
        "run",
        sum(1 for _ in plan.nodes()),
        target="all" if targets is None else named(targets),
        conditions=",".join(conditions),
    )
    return Response(body, content_type=NDJSON)


def _conditions(choice: RunChoice) -> tuple[str, ...]:
    if bool(choice.nodes) == choice.everything:
        raise BadRequestError("expected either nodes or all")
    if len(choice.nodes) > _MAX_PARTS:
        raise BadRequestError(f"more than {_MAX_PARTS} nodes are given")
    try:
        return read_conditions({"conditions": ",".join(choice.conditions)})
    except RequestError as error:
        raise BadRequestError(str(error)) from None


async def _targets(choice: RunChoice, nodes: Nodes) -> tuple[str, ...] | None:
    """Return the ids of the nodes that are meant, each once; None for all."""
    if choice.everything:
        return None
    try:
        return await in_thread(_find, choice.nodes, nodes, abandon_on_cancel=True)
    except NoSuchNodeError as error:
        raise BadRequestError(str(error)) from None


def _find(parts: Iterable[str], nodes: Nodes) -> tuple[str, ...]:
    hostnames = nodes.hostnames()
    return tuple(dict.fromkeys(find_node(part, hostnames) for part in parts))


def _hostname(nodes: Nodes, node_id: str) -> str:
    node = nodes.get(node_id)
    return "" if node is None else node.hostname


def _names(plan: Plan, nodes: Nodes) -> Iterator[bytes]:
    """Yield what the nodes of a run and the relays on their routes are called, in pieces."""
    lines = (
        msgspec.json.encode(NodeLine(node_id, _hostname(nodes, node_id))) + b"\n"
        for node_id in _involved(plan, nodes)
    )
    while piece := b"".join(islice(lines, _PIECE)):
        yield piece


def _involved(plan: Plan, nodes: Nodes) -> Iterator[str]:
    seen = {nodes.my_id}
    yield nodes.my_id
    for target in plan.nodes():
        node_id = target
        for _level in range(MAX_LEVELS + 1):
            if node_id in seen:
                break
            seen.add(node_id)
            yield node_id
            node = nodes.get(node_id)
            if node is None:
                break
            node_id = node.policy_server


class _NamedBody(AnswerBody):
    """The answer of a run, after the names of its nodes."""

    def __init__(self, answer: Sink, names: Iterator[bytes]) -> None:
        super().__init__(answer)
        self._names = names

    async def __anext__(self) -> bytes:
        piece = next(self._names, None)
        return await super().__anext__() if piece is None else piece
