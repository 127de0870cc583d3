"""Where the page gets what it shows: the parts of a running service."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from relayd.control.nodes import Fleet
from relayd.overview.fleet import FilePlace, Refusals, find, known_node, known_nodes
from relayd.overview.model import Overview
from relayd.overview.nodes import NodesChoice, NodesPage
from relayd.overview.one_node import NodeDetail
from relayd.system.threads import in_thread
from relayd.telemetry.rates import Rates


class PageSource:
    """Implements `relayd.api.page.pages.Source`.

    Attributes:
        rates: of the last day.
        hosts: names under which the page may be asked for.
        stopping: set when relayd stops.

    Args:
        overview: says whether all is well.
        fleet: answers what is asked about nodes.
        rates: see above.
        hosts: see above.
        stopping: see above.
    """

    def __init__(
        self,
        overview: Callable[[], Awaitable[Overview]],
        fleet: Fleet,
        rates: Rates,
        hosts: frozenset[str],
        stopping: trio.Event,
    ) -> None:
        self._overview = overview
        self._fleet = fleet
        self.rates = rates
        self.hosts = hosts
        self.stopping = stopping
        # One at a time: each may look at all files of the spool.
        self._limiter = trio.CapacityLimiter(1)

    async def overview(self) -> Overview:
        """Return the overview."""
        return await self._overview()

    async def nodes(self, choice: NodesChoice) -> NodesPage:
        """Return nodes. Raises `RelaydError` for a choice that fits nothing."""
        fleet = self._fleet
        known = known_nodes(fleet.nodes(), fleet.records.copy())
        work = partial(fleet.view.some, known, choice)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def node(self, part: str) -> NodeDetail:
        """Return all about a node. Raises `RelaydError` if there is none."""
        fleet, nodes = self._fleet, self._fleet.nodes()
        node_id = await in_thread(find, nodes, part, abandon_on_cancel=True)
        asked = await fleet.ask(node_id, follow=False)
        known = known_node(nodes, fleet.records, node_id)
        work = partial(fleet.view.one, known, node_id, asked)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def refused(self, reason: str, limit: int) -> Refusals:
        """Return refused files."""
        work = partial(self._fleet.view.refused, reason, limit)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def file(self, name: str) -> FilePlace:
        """Return where a file is."""
        work = partial(self._fleet.view.where, name)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)
