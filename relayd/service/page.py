"""Where the page gets what it shows: the parts of a running service."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from relayd.control.nodes import known_nodes
from relayd.fleet.nodes import Nodes
from relayd.overview.fleet import FilePlace, FleetView, Refusals
from relayd.overview.model import Overview
from relayd.overview.nodes import NodesChoice, NodesPage
from relayd.overview.one_node import NodeDetail
from relayd.system.threads import in_thread
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.rates import Rates


class PageSource:
    """Implements `relayd.api.page.pages.Source`.

    Attributes:
        rates: of the last day.
        hosts: names under which the page may be asked for.
        stopping: set when relayd stops.

    Args:
        overview: says whether all is well.
        view: answers what is asked about nodes, in a thread.
        nodes: returns the nodes list in use.
        records: of the nodes.
        rates: see above.
        hosts: see above.
        stopping: see above.
    """

    def __init__(
        self,
        overview: Callable[[], Awaitable[Overview]],
        view: FleetView,
        nodes: Callable[[], Nodes],
        records: NodeRecords,
        rates: Rates,
        hosts: frozenset[str],
        stopping: trio.Event,
    ) -> None:
        self._overview = overview
        self._view = view
        self._nodes = nodes
        self._records = records
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
        known = await known_nodes(self._nodes(), self._records)
        work = partial(self._view.some, known, choice)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def node(self, part: str) -> NodeDetail:
        """Return all about a node. Raises `RelaydError` if there is none."""
        known = await known_nodes(self._nodes(), self._records)
        work = partial(self._view.one, known, part)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def refused(self, reason: str, limit: int) -> Refusals:
        """Return refused files."""
        work = partial(self._view.refused, reason, limit)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def file(self, name: str) -> FilePlace:
        """Return where a file is."""
        work = partial(self._view.where, name)
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)
