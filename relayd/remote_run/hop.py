"""A sub-relay's part of a run: one HTTPS call, whose answer is passed on as it arrives."""

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from relayd.errors import UNDECODABLE, PeerError, PeerStep
from relayd.fleet.nodes import MAX_LEVELS
from relayd.fleet.peers.client import Answer, Clients
from relayd.fleet.peers.urls import PUBLIC_API
from relayd.remote_run.commands.watch import Watch
from relayd.remote_run.events import NOTE, VERDICTS, RunEvent, RunReporter
from relayd.remote_run.helper.limits import Limits, limits_for
from relayd.remote_run.plan import Hop
from relayd.remote_run.request import RunRequest
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")

NDJSON: Final = "application/x-ndjson"
#: Number of relays that have passed a request on, which ends a routing loop.
HOPS_HEADER: Final = "Rudder-Relay-Hops"
_FORM: Final = "application/x-www-form-urlencoded"
_BASE: Final = f"{PUBLIC_API}/remote-run"
_NO_EXIT_CODES: Final = "this relay does not report exit codes"

_NOTE: Final = NOTE.encode()

_decode = msgspec.json.Decoder(RunEvent).decode


@dataclass(frozen=True, slots=True)
class Calls:
    """How sub-relays are called.

    Attributes:
        clients: connect to them, with their certificates pinned; their peer names are node ids.
        port: their HTTPS port.
        timeout: `remote_run.timeout`.
    """

    clients: Clients
    port: int
    timeout: float


def patience(timeout: float, nodes: int, hops: int) -> Limits:
    """Return how long a sub-relay may be silent, and how long its call may take.

    It has the time of its nodes, then some more to report what it has given up itself: a relay
    always waits longer than the one below it.

    Args:
        timeout: seconds for one node.
        nodes: number of nodes below the sub-relay.
        hops: number of relays that have passed the request on.
    """
    more = timeout * (2 - min(hops, MAX_LEVELS) / MAX_LEVELS)
    limits = limits_for(timeout, nodes)
    return Limits(limits.silence + more, limits.total + more)


async def call_relay(hop: Hop, request: RunRequest, reporter: RunReporter, calls: Calls) -> None:
    """Have a sub-relay run its part; each of its nodes has a verdict afterwards.

    Args:
        hop: the sub-relay.
        request: the request for the whole run.
        reporter: of the whole run.
        calls: how sub-relays are called.
    """
    watch = Watch(patience(calls.timeout, len(hop.nodes), request.hops))
    problem = "no verdict from this relay"
    with watch.scope:
        try:
            await _call(hop, request, _Receiver(hop, reporter, watch), calls)
        except PeerError as error:
            problem = str(error)
    problem = f"given up: {watch.reason}" if watch.cut else problem
    lost = reporter.without_verdict(hop.nodes)
    if lost:
        log.warning("sub-relay failed", node=hop.relay, nodes=len(lost), detail=problem)
        report = reporter.give_up if watch.cut else reporter.finish
        await report(lost, hop.relay, problem, "hop_error")


async def _call(hop: Hop, request: RunRequest, receiver: "_Receiver", calls: Calls) -> None:
    if hop.host is None:
        raise PeerError("this relay has no usable host name", "operator", PeerStep.CONNECT)
    target = "all" if request.nodes is None else "nodes"
    share = None if request.nodes is None else tuple(hop.nodes)
    headers = {"Content-Type": _FORM, HOPS_HEADER: str(request.hops + 1)}
    if request.events:
        headers["Accept"] = NDJSON
    async with calls.clients.request(
        hop.relay,
        "POST",
        f"https://{hop.host}:{calls.port}{_BASE}/{target}",
        headers=headers,
        content=request.form(share),
        # The relay may have to wait for agents, or for a relay below that is silent itself, before
        # it answers; `patience` bounds that.
        stall_timeout=math.inf,
    ) as answer:
        await receiver.take(answer)


class _Receiver:
    """Reports what a sub-relay answers."""

    def __init__(self, hop: Hop, reporter: RunReporter, watch: Watch) -> None:
        self._hop = hop
        self._reporter = reporter
        self._watch = watch

    async def take(self, answer: Answer) -> None:
        """Report the whole answer."""
        if answer.status != 200:
            detail = f"this relay answered with status {answer.status}"
            raise PeerError(detail, "operator", PeerStep.ANSWER)
        self._watch.sign()
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == NDJSON:
            await self._take_events(answer)
        else:
            await self._take_text(answer)

    async def _take_text(self, answer: Answer) -> None:
        hop, reporter = self._hop, self._reporter
        await reporter.started(hop.nodes, hop.relay)
        node = hop.nodes[0] if len(hop.nodes) == 1 else None
        async for line in answer.lines():
            if line.startswith(_NOTE) and reporter.note(line.decode("utf-8", "replace").rstrip()):
                continue
            with self._watch.passing_on(len(line)):
                await reporter.output(line, hop.relay, node, hop.relay)
        await reporter.finish(hop.nodes, hop.relay, _NO_EXIT_CODES, "exit")

    async def _take_events(self, answer: Answer) -> None:
        """Report the events that are about the relay's own nodes, and no others."""
        share = frozenset(self._hop.nodes)
        unexpected = 0
        async for line in answer.lines():
            event = _read(line)
            if event is None or (event.node is not None and event.node not in share):
                unexpected += 1
                continue
            with self._watch.passing_on(len(line)):
                await self._report(event)
        if unexpected:
            log.warning(
                "sub-relay sent events for nodes it was not asked about",
                node=self._hop.relay,
                events=unexpected,
            )

    async def _report(self, event: RunEvent) -> None:
        reporter = self._reporter
        if event.event in VERDICTS:
            await reporter.verdict(event)
        elif event.event == "started" and event.node is not None:
            await reporter.started(reporter.without_verdict([event.node]), event.relay)
        elif isinstance(event.output, str):
            data = event.output.encode("utf-8", "replace") + b"\n"
            await reporter.output(data, event.relay, event.node, self._hop.relay)


def _read(line: bytes) -> RunEvent | None:
    try:
        return _decode(line)
    except UNDECODABLE:
        return None
