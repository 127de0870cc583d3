"""The nodes: who has not reported, who is refused, and all about one of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio
from quart import Blueprint

from relayd.control.requests import answering, read_query
from relayd.fleet.nodes import Nodes
from relayd.overview.documents import as_document
from relayd.overview.fleet import FleetView, Known
from relayd.overview.nodes import NodesChoice
from relayd.system.threads import in_thread
from relayd.telemetry.nodes.records import NodeRecords

#: Records that are copied before the event loop runs again: a millisecond or two.
_STEP: Final = 200


class LimitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query of files.

    Attributes:
        limit: maximum number of files.
    """

    limit: int = 200


def nodes_blueprint(view: FleetView, nodes: Callable[[], Nodes], records: NodeRecords) -> Blueprint:
    """Return `/nodes`, `/nodes/NODE` and `/refused/REASON`.

    Args:
        view: answers in a thread.
        nodes: returns the nodes list in use.
        records: of the nodes.
    """
    routes = Blueprint("nodes", __name__)

    @routes.get("/nodes", endpoint="getNodes")
    @answering("getNodes")
    async def list_nodes() -> dict[str, Any]:
        choice = read_query(NodesChoice)
        known = await known_nodes(nodes(), records)
        page = await in_thread(view.some, known, choice, abandon_on_cancel=True)
        return as_document(page)

    @routes.get("/nodes/<rest:part>", endpoint="getNode")
    @answering("getNode")
    async def one_node(part: str) -> dict[str, Any]:
        known = await known_nodes(nodes(), records)
        detail = await in_thread(partial(view.one, known, part), abandon_on_cancel=True)
        return as_document(detail)

    @routes.get("/refused/<rest:reason>", endpoint="getRefused")
    @answering("getRefused")
    async def refused(reason: str) -> dict[str, Any]:
        limit = read_query(LimitQuery).limit
        return as_document(await in_thread(view.refused, reason, limit, abandon_on_cancel=True))

    return routes


async def known_nodes(nodes: Nodes, records: NodeRecords) -> Known:
    """Return a copy of the records, for a thread."""
    found = {}
    for number, node_id in enumerate(nodes.ids()):
        if number % _STEP == 0:
            await trio.lowlevel.checkpoint()
        record = records.get(node_id)
        if record is not None:
            found[node_id] = record
    return Known(nodes, found, records.last_hour(), records.since)
