"""A sub-relay's part of a run: one HTTPS call, whose answer is passed on as it arrives."""

import math
from typing import Final

import msgspec
import trio

from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.client import Answer, Clients
from relayd.fleet.peers.urls import PUBLIC_API
from relayd.remote_run.events import VERDICTS, RunEvent, RunReporter
from relayd.remote_run.plan import Hop
from relayd.remote_run.request import RunRequest
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Seconds until the head of an asynchronous answer; a synchronous one arrives after the run.
HEAD_S: Final = 10.0
NDJSON: Final = "application/x-ndjson"
#: Number of relays that have passed a request on, which ends a routing loop.
HOPS_HEADER: Final = "Rudder-Relay-Hops"
_FORM: Final = "application/x-www-form-urlencoded"
_BASE: Final = f"{PUBLIC_API}/remote-run"
_NO_EXIT_CODES: Final = "this relay does not report exit codes"

_decode = msgspec.json.Decoder(RunEvent).decode


async def call_relay(
    hop: Hop, request: RunRequest, reporter: RunReporter, clients: Clients, port: int
) -> None:
    """Have a sub-relay run its part; each of its nodes has a verdict afterwards.

    Args:
        hop: the sub-relay.
        request: the request for the whole run.
        reporter: of the whole run.
        clients: connect to it, with its certificates pinned.
        port: its HTTPS port.
    """
    try:
        await _call(hop, request, reporter, clients, port)
        problem = "no verdict from this relay"
    except PeerError as error:
        problem = str(error)
    lost = reporter.without_verdict(hop.nodes)
    if lost:
        log.warning("sub-relay failed", node=hop.relay, nodes=len(lost), detail=problem)
        await reporter.finish(lost, hop.relay, problem, "hop_error")


async def _call(
    hop: Hop, request: RunRequest, reporter: RunReporter, clients: Clients, port: int
) -> None:
    if hop.host is None:
        raise PeerError("this relay has no usable host name", "operator", PeerStep.CONNECT)
    target = "all" if request.nodes is None else "nodes"
    share = None if request.nodes is None else tuple(hop.nodes)
    headers = {"Content-Type": _FORM, HOPS_HEADER: str(request.hops + 1)}
    if request.events:
        headers["Accept"] = NDJSON
    with trio.CancelScope() as scope:
        if request.asynchronous:
            scope.deadline = trio.current_time() + HEAD_S
        async with clients.request(
            hop.relay,
            "POST",
            f"https://{hop.host}:{port}{_BASE}/{target}",
            headers=headers,
            content=request.form(share),
            stall_timeout=math.inf,  # agents may be silent for long; the run has a deadline
        ) as answer:
            scope.deadline = math.inf
            await _pass_on(answer, hop, reporter)
    if scope.cancelled_caught:
        raise PeerError(f"no answer within {HEAD_S:g} s", "transient", PeerStep.ANSWER)


async def _pass_on(answer: Answer, hop: Hop, reporter: RunReporter) -> None:
    if answer.status != 200:
        detail = f"this relay answered with status {answer.status}"
        raise PeerError(detail, "operator", PeerStep.ANSWER)
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON:
        await _pass_events_on(answer, hop, reporter)
        return
    await reporter.started(hop.nodes, hop.relay)
    node = hop.nodes[0] if len(hop.nodes) == 1 else None
    async for line in answer.lines():
        await reporter.output(line, hop.relay, node, hop.relay)
    await reporter.finish(hop.nodes, hop.relay, _NO_EXIT_CODES, "exit")


async def _pass_events_on(answer: Answer, hop: Hop, reporter: RunReporter) -> None:
    """Report the events of a relay that are about its own nodes, and no others."""
    share = frozenset(hop.nodes)
    unexpected = 0
    async for line in answer.lines():
        event = _read(line)
        if event is None or (event.node is not None and event.node not in share):
            unexpected += 1
        elif event.event in VERDICTS:
            await reporter.verdict(event)
        elif event.event == "started" and event.node is not None:
            await reporter.started(reporter.without_verdict([event.node]), event.relay)
        elif isinstance(event.output, str):
            data = event.output.encode("utf-8", "replace") + b"\n"
            await reporter.output(data, event.relay, event.node, hop.relay)
    if unexpected:
        log.warning(
            "sub-relay sent events for nodes it was not asked about",
            node=hop.relay,
            events=unexpected,
        )


def _read(line: bytes) -> RunEvent | None:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
