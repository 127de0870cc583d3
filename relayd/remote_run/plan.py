"""The division of a remote run: neighbours by commands, others by the relay they are below.

Decided once, from the current nodes when the run begins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from relayd.errors import NodesError
from relayd.fleet.nodes import MAX_LEVELS, Node, Nodes
from relayd.remote_run.commands.runner import Order, Target
from relayd.remote_run.request import RunRequest
from relayd.system.addresses import HostError, bracketed, usable_host

#: Bytes of the argument that holds the host names. Linux takes up to 131,072 (MAX_ARG_STRLEN in
#: execve(2)); the rest is a margin for sudo or a shell in between.
MAX_ARGUMENT: Final = 100_000
#: Between two checkpoints of a loop over nodes: well below a millisecond.
_STEP: Final = 500

#: A host name must not contain anything that would end or split the argument it is part of.
_HOST: Final = re.compile(r"[^\s,\x00-\x1f\x7f]{1,255}")


@dataclass(slots=True)
class Hop:
    """A sub-relay and its part of the run.

    Attributes:
        relay: its node id.
        host: its host as written in a URL; None if it has no usable name.
        nodes: ids of the nodes that it is responsible for.
    """

    relay: str
    host: str | None
    nodes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """A run divided among commands and sub-relays.

    Attributes:
        me: node id of this policy server.
        local: neighbours, for its own commands.
        hops: sub-relays by node id.
        unreachable: node id → why there is no route to it.
    """

    me: str
    local: list[Target] = field(default_factory=list)
    hops: dict[str, Hop] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)

    def nodes(self) -> Iterator[str]:
        """Yield all nodes of the run."""
        yield from self.unreachable
        yield from (target.node for target in self.local)
        for hop in self.hops.values():
            yield from hop.nodes


async def make_plan(request: RunRequest, nodes: Nodes) -> Plan:
    """Divide a run, with checkpoints in between, however many nodes there are."""
    planner = _Planner(nodes)
    targets = nodes.ids() if request.nodes is None else request.nodes
    skipped = _not_below(nodes) if request.nodes is None else frozenset()
    for number, node_id in enumerate(targets):
        if number % _STEP == 0:
            await trio.lowlevel.checkpoint()
        if node_id not in skipped:
            planner.add(node_id)
    return planner.plan


def orders(plan: Plan, request: RunRequest) -> Iterator[Order]:
    """Yield the commands for neighbours.

    A client of text gets what `rudder-relayd` sends: the output of one command for all, or of as
    few as their host names fit into. A client of events wants a verdict for each node, and only a
    command for this node alone has an exit code that is its verdict.
    """
    if request.events:
        return (Order((target,), request.conditions) for target in plan.local)
    return _together(plan, request.conditions)


def _together(plan: Plan, conditions: tuple[str, ...]) -> Iterator[Order]:
    part: list[Target] = []
    size = 0
    for target in plan.local:
        more = len(target.host.encode()) + 1
        if part and size + more > MAX_ARGUMENT:
            yield Order(tuple(part), conditions)
            part, size = [], 0
        part.append(target)
        size += more
    if part:
        yield Order(tuple(part), conditions)


def _not_below(nodes: Nodes) -> frozenset[str]:
    """Return nodes that a run on all nodes leaves out: those above this one, and itself."""
    above: list[str] = []
    node_id = nodes.my_id
    while len(above) <= MAX_LEVELS and node_id not in above:
        above.append(node_id)
        node = nodes.get(node_id)
        if node is None:
            break
        node_id = node.policy_server
    return frozenset(node_id for node_id in above if not nodes.is_neighbour(node_id))


class _Planner:
    """Adds nodes to a plan; the route to each policy server is looked up once."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._routes: dict[str, str] = {}
        self.plan = Plan(nodes.my_id)

    def add(self, node_id: str) -> None:
        node = self._nodes.get(node_id)
        if node is None:
            self.plan.unreachable[node_id] = "unknown node"
        elif self._nodes.is_neighbour(node_id):
            self._add_neighbour(node)
        else:
            self._add_below(node)

    def _add_neighbour(self, node: Node) -> None:
        if _HOST.fullmatch(node.hostname):
            self.plan.local.append(Target(node.id, node.hostname))
        else:
            self.plan.unreachable[node.id] = "no usable host name"

    def _add_below(self, node: Node) -> None:
        relay = self._routes.get(node.policy_server)
        if relay is None:
            try:
                relay = self._nodes.next_hop(node.id)
            except NodesError as error:
                self.plan.unreachable[node.id] = str(error)
                return
            self._routes[node.policy_server] = relay
        hop = self.plan.hops.get(relay)
        if hop is None:
            hop = self.plan.hops[relay] = Hop(relay, url_host(self._nodes, relay))
        hop.nodes.append(node.id)


def url_host(nodes: Nodes, relay: str) -> str | None:
    """Return the host of a relay as written in a URL; None if it has no usable name."""
    node = nodes.get(relay)
    if node is None:
        return None
    try:
        return bracketed(usable_host(node.hostname))
    except HostError:
        return None
