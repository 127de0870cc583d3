"""The part of a run that a sub-relay does: one HTTPS call, its answer told on as it comes."""

import math
from typing import Final

import msgspec
import trio

from relayd.errors import PeerError, PeerStep
from relayd.fleet.peers.client import Answer, Clients
from relayd.remote_run.events import VERDICTS, Event, Teller
from relayd.remote_run.plan import Hop
from relayd.remote_run.request import Wanted
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

#: Seconds until the head of an asynchronous answer. A synchronous one comes at the end of the run.
HEAD_S: Final = 10.0
NDJSON: Final = "application/x-ndjson"
#: How many relays have passed a request on; a way that leads in a circle ends by it.
HOPS_HEADER: Final = "Rudder-Relay-Hops"
_FORM: Final = "application/x-www-form-urlencoded"
_BASE: Final = "/rudder/relay-api/remote-run"
_NOT_TOLD: Final = "this relay does not tell"

_decode = msgspec.json.Decoder(Event).decode


async def call_relay(hop: Hop, wanted: Wanted, teller: Teller, clients: Clients, port: int) -> None:
    """Let a sub-relay run its part; each of its nodes has a verdict afterwards.

    Args:
        hop: the sub-relay.
        wanted: the whole run.
        teller: of the whole run.
        clients: speak to it, pinned to its certificates.
        port: its HTTPS port.
    """
    try:
        await _call(hop, wanted, teller, clients, port)
        problem = "no verdict from this relay"
    except PeerError as error:
        problem = str(error)
    lost = teller.open_of(hop.nodes)
    if lost:
        log.warning("sub-relay failed", node=hop.relay, nodes=len(lost), detail=problem)
        await teller.unfinished(lost, hop.relay, problem, "hop_error")


async def _call(hop: Hop, wanted: Wanted, teller: Teller, clients: Clients, port: int) -> None:
    if hop.host is None:
        raise PeerError("this relay has no usable host name", "operator", PeerStep.CONNECT)
    target = "all" if wanted.nodes is None else "nodes"
    share = None if wanted.nodes is None else tuple(hop.nodes)
    headers = {"Content-Type": _FORM, HOPS_HEADER: str(wanted.hops + 1)}
    if wanted.events:
        headers["Accept"] = NDJSON
    with trio.CancelScope() as scope:
        if wanted.asynchronous:
            scope.deadline = trio.current_time() + HEAD_S
        async with clients.request(
            hop.relay,
            "POST",
            f"https://{hop.host}:{port}{_BASE}/{target}",
            headers=headers,
            content=wanted.form(share),
            patience=math.inf,  # agents may be silent for long; the run has a deadline
        ) as answer:
            scope.deadline = math.inf
            await _tell_on(answer, hop, teller)
    if scope.cancelled_caught:
        raise PeerError(f"no answer within {HEAD_S:g} s", "transient", PeerStep.ANSWER)


async def _tell_on(answer: Answer, hop: Hop, teller: Teller) -> None:
    if answer.status != 200:
        detail = f"this relay answered with status {answer.status}"
        raise PeerError(detail, "operator", PeerStep.ANSWER)
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON:
        await _tell_events(answer, hop, teller)
        return
    await teller.started(hop.nodes, hop.relay)
    node = hop.nodes[0] if len(hop.nodes) == 1 else None
    async for line in answer.lines():
        await teller.output(line, hop.relay, node, hop.relay)
    await teller.unfinished(hop.nodes, hop.relay, _NOT_TOLD, "exit")


async def _tell_events(answer: Answer, hop: Hop, teller: Teller) -> None:
    """Return on what a relay says of its own nodes, and nothing else."""
    share = frozenset(hop.nodes)
    strange = 0
    async for line in answer.lines():
        event = _read(line)
        if event is None or (event.node is not None and event.node not in share):
            strange += 1
        elif event.event in VERDICTS:
            await teller.verdict(event)
        elif event.event == "started" and event.node is not None:
            await teller.started(teller.open_of([event.node]), event.relay)
        elif isinstance(event.output, str):
            data = event.output.encode("utf-8", "replace") + b"\n"
            await teller.output(data, event.relay, event.node, hop.relay)
    if strange:
        log.warning("sub-relay told what was not asked", node=hop.relay, events=strange)


def _read(line: bytes) -> Event | None:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
