"""What the relays on the way to a node say of it: this server asks the first, which asks the next.

Each relay gets two seconds less than the one that asks it, so the one that is lost is named.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec
import trio

from relayd import __version__
from relayd.errors import NodesError, PeerError
from relayd.fleet.nodes import MAX_LEVELS, Nodes
from relayd.fleet.peers.client import Answer, Clients
from relayd.fleet.peers.urls import PUBLIC_API
from relayd.overview.documents import as_document, from_document
from relayd.overview.fleet import FleetView, known_node
from relayd.overview.nodes import name_of
from relayd.overview.one_node import HopState
from relayd.remote_run.hop import HOPS_HEADER
from relayd.remote_run.plan import url_host
from relayd.system.printable import printable
from relayd.system.threads import in_thread
from relayd.telemetry.nodes.records import NodeRecords

#: Seconds for a relay with none below it, and for each one more; never more than the last.
_STEP_S: Final = 2.0
_MOST_S: Final = 20.0
#: Bytes of an answer; one about twenty relays has some 8 kB.
MAX_ANSWER: Final = 64 * 1024
#: Characters of a text of another relay that are shown.
_SHOWN: Final = 200
#: Spools that are looked through at the same time for other servers.
_THREADS: Final = 2

_WITHOUT: Final = "it cannot be asked: rudder-relayd, or an older relayd"
_STRANGE: Final = "its answer is not understood"
_NOT_ASKED: Final = "not asked"


class _Data(msgspec.Struct, frozen=True):
    hops: list[dict[str, str | int | float | None]]


class _Wire(msgspec.Struct, frozen=True):
    """The form of an answer; nothing in it may be nested deeper."""

    data: _Data


_decode = msgspec.json.Decoder(_Wire).decode


class Way:
    """Asks the relays on the way to a node.

    Args:
        view: of this server's own nodes.
        nodes: returns the nodes list in use.
        records: of the nodes.
        clients: connect to relays; their peer names are node ids.
        port: their HTTPS port.
        known: waits, for a bounded time, until there is a nodes list; raises `NodesError`.
    """

    def __init__(
        self,
        view: FleetView,
        nodes: Callable[[], Nodes],
        records: NodeRecords,
        clients: Clients,
        port: int,
        known: Callable[[], Awaitable[object]],
    ) -> None:
        self._view = view
        self._nodes = nodes
        self._records = records
        self._clients = clients
        self._port = port
        self._known = known
        self._threads = trio.CapacityLimiter(_THREADS)

    async def answer(self, node_id: str, passed: int) -> dict[str, Any] | None:
        """Return what this relay and those below it say of a node, as a document.

        Args:
            node_id: the node.
            passed: relays that have passed the question on.

        Returns:
            None if the node is not below this server.

        Raises:
            RelaydError: the nodes list, or a spool, cannot be read.
        """
        await self._known()
        nodes = self._nodes()
        below_here = nodes.is_neighbour(node_id) or _relays_to(nodes, node_id)
        if node_id == nodes.my_id or not below_here:
            return None
        below: list[HopState] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._collect, below, node_id, passed)
            own = await self._own(nodes, node_id)
        return {"hops": [as_document(hop) for hop in (own, *below)]}

    async def below(self, node_id: str, passed: int = 0) -> tuple[HopState, ...]:
        """Return what the relays below this server say of a node, that of the first one first.

        One that cannot be asked says why, and those below it were not asked.

        Args:
            node_id: the node.
            passed: relays that have passed the question on.
        """
        nodes = self._nodes()
        relays = _relays_to(nodes, node_id)
        if not relays:
            return ()
        try:
            hops = await self._ask(nodes, relays, node_id, passed)
        except PeerError as error:
            hops = [HopState(relay=relays[0], trouble=printable(str(error), _SHOWN))]
        hops += [HopState(relay=relay, trouble=_NOT_ASKED) for relay in relays[len(hops) :]]
        return tuple(
            msgspec.structs.replace(hop, hostname=name_of(nodes, hop.relay)) for hop in hops
        )

    async def _collect(self, below: list[HopState], node_id: str, passed: int) -> None:
        below += await self.below(node_id, passed)

    async def _own(self, nodes: Nodes, node_id: str) -> HopState:
        known = known_node(nodes, self._records, node_id)
        look = partial(self._view.one, known, node_id, named=0)
        row = (await in_thread(look, abandon_on_cancel=True, limiter=self._threads)).row
        return HopState(
            relay=nodes.my_id,
            version=__version__,
            last_arrival=row.last_arrival,
            outcome=row.outcome,
            reason=row.reason,
            outcome_at=row.outcome_at,
            waiting=row.waiting,
            failed=row.failed,
            lag_s=row.lag_s,
        )

    async def _ask(
        self, nodes: Nodes, relays: Sequence[str], node_id: str, passed: int
    ) -> list[HopState]:
        """Return what the first of these relays answers; raise PeerError without an answer."""
        host = url_host(nodes, relays[0])
        if host is None:
            return [HopState(relay=relays[0], trouble="it has no usable host name")]
        if passed >= MAX_LEVELS:
            return [HopState(relay=relays[0], trouble=f"passed on by {passed} relays already")]
        url = f"https://{host}:{self._port}{PUBLIC_API}/remote-run/status/{quote(node_id, safe='')}"
        patience = min(_STEP_S * (1 + len(relays)), _MOST_S)
        with trio.move_on_after(patience):
            headers = {HOPS_HEADER: str(passed + 1)}
            async with self._clients.request(relays[0], "GET", url, headers=headers) as answer:
                return read_hops(answer.status, await _read(answer), relays)
        return [HopState(relay=relays[0], trouble=f"no answer within {patience:g} s")]


def _relays_to(nodes: Nodes, node_id: str) -> list[str]:
    """Return the relays between this server and a node; none without a way to it."""
    try:
        return nodes.route(node_id)[:-1]
    except NodesError:
        return []


async def _read(answer: Answer) -> bytes:
    """Return the body, and no more of it than shows that it is too large."""
    body = bytearray()
    async for chunk in answer.chunks():
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return bytes(body[: MAX_ANSWER + 1])


def read_hops(status: int, body: bytes, relays: Sequence[str]) -> list[HopState]:
    """Return what a relay has answered, if it is about these relays; else what is wrong with it."""
    trouble = _STRANGE
    if status == 404:
        trouble = "it does not have this node" if body.startswith(b"{") else _WITHOUT
    elif status != 200:
        trouble = f"it answered with status {status}"
    elif len(body) <= MAX_ANSWER:
        hops = _decoded(body)
        if hops and [hop.relay for hop in hops] == list(relays[: len(hops)]):
            return hops
    return [HopState(relay=relays[0], trouble=trouble)]


def _decoded(body: bytes) -> list[HopState]:
    """Return the hops of an answer with only what may be shown; none if it is not understood."""
    try:
        hops = [from_document(hop, HopState) for hop in _decode(body).data.hops]
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeDecodeError):
        return []
    return [
        msgspec.structs.replace(
            hop, trouble=None if hop.trouble is None else printable(hop.trouble, _SHOWN)
        )
        for hop in hops
    ]
