"""The nodes: who has not reported, who is refused, and all about one of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import trio
from quart import Blueprint

from relayd.control.requests import answering, encoded, read_query
from relayd.errors import RelaydError
from relayd.fleet.nodes import Nodes
from relayd.overview.documents import as_document
from relayd.overview.fleet import FleetView, find, known_node, known_nodes
from relayd.overview.nodes import NodesChoice
from relayd.overview.one_node import Asked, HopState
from relayd.overview.way import Way
from relayd.system.threads import in_thread
from relayd.telemetry.nodes.records import NodeRecords

LastRun = Callable[[str], Awaitable[float | None]]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The parts of the service that know about nodes.

    Attributes:
        view: answers in a thread.
        nodes: returns the nodes list in use.
        records: of the nodes.
        way: asks the relays on the way to a node.
        last_run: returns the start of a node's last run in the database, Unix time; raises
            `RelaydError`. None where run logs are not stored.
    """

    view: FleetView
    nodes: Callable[[], Nodes]
    records: NodeRecords
    way: Way
    last_run: LastRun | None = None

    async def ask(self, node_id: str, *, follow: bool) -> Asked:
        """Return what the database says of a node, and the relays on the way if they are asked."""
        database: list[Asked] = [Asked()]
        hops: tuple[HopState, ...] | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_database, database, node_id)
            if follow:
                hops = await self.way.below(node_id)
        return msgspec.structs.replace(database[0], hops=hops)

    async def _ask_database(self, found: list[Asked], node_id: str) -> None:
        if self.last_run is None:
            return
        try:
            found[0] = Asked(database=await self.last_run(node_id))
        except RelaydError as error:
            found[0] = Asked(database_trouble=str(error))


class FollowQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query of one node.

    Attributes:
        follow: whether the relays on the way to it are asked.
    """

    follow: bool = False


class SilentQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query of relays.

    Attributes:
        silent: seconds without a run log that are unusual.
    """

    silent: float


class LimitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query of files.

    Attributes:
        limit: maximum number of files.
    """

    limit: int = 200


def nodes_blueprint(fleet: Fleet) -> Blueprint:
    """Return `/nodes`, `/nodes/NODE`, `/relays` and `/refused/REASON`."""
    routes = Blueprint("nodes", __name__)

    @routes.get("/nodes", endpoint="getNodes")
    @answering("getNodes")
    async def list_nodes() -> msgspec.Raw:
        choice = read_query(NodesChoice)
        # The copy takes the event loop a millisecond; everything else is done by the thread.
        known = known_nodes(fleet.nodes(), fleet.records.copy())
        return await in_thread(
            lambda: encoded(as_document(fleet.view.some(known, choice))), abandon_on_cancel=True
        )

    @routes.get("/nodes/<rest:part>", endpoint="getNode")
    @answering("getNode")
    async def one_node(part: str) -> msgspec.Raw:
        query, nodes = read_query(FollowQuery), fleet.nodes()
        node_id = await in_thread(find, nodes, part, abandon_on_cancel=True)
        asked = await fleet.ask(node_id, follow=query.follow)
        known = known_node(nodes, fleet.records, node_id)
        return await in_thread(
            lambda: encoded(as_document(fleet.view.one(known, node_id, asked))),
            abandon_on_cancel=True,
        )

    @routes.get("/relays", endpoint="getRelays")
    @answering("getRelays")
    async def relays() -> msgspec.Raw:
        known = known_nodes(fleet.nodes(), fleet.records.copy())
        look = partial(fleet.view.relays, known, read_query(SilentQuery).silent)
        return await in_thread(lambda: encoded(as_document(look())), abandon_on_cancel=True)

    @routes.get("/refused/<rest:reason>", endpoint="getRefused")
    @answering("getRefused")
    async def refused(reason: str) -> msgspec.Raw:
        look = partial(fleet.view.refused, reason, read_query(LimitQuery).limit)
        return await in_thread(lambda: encoded(as_document(look())), abandon_on_cancel=True)

    return routes
