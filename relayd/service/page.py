"""Where the page gets what it shows: the parts of a running service."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import trio

from relayd.api.page.hosts import allowed_hosts
from relayd.config.main_conf import Listen
from relayd.control.nodes import Fleet
from relayd.overview.fleet import FilePlace, Known, Refusals, find, known_node, known_nodes
from relayd.overview.model import Overview
from relayd.overview.nodes import NodesChoice, NodesPage
from relayd.overview.one_node import NodeDetail
from relayd.overview.summary import Summary
from relayd.system.threads import in_thread
from relayd.telemetry.rates import Rates

T = TypeVar("T")


class PageSource:
    """Implements `relayd.api.page.pages.Source`.

    Attributes:
        rates: of the last day.
        stopping: set when relayd stops.

    Args:
        overview: says whether all is well.
        fleet: answers what is asked about nodes.
        rates: see above.
        listen: address of the API.
        stopping: see above.
    """

    def __init__(
        self,
        overview: Callable[[], Awaitable[Overview]],
        fleet: Fleet,
        rates: Rates,
        listen: Listen,
        stopping: trio.Event,
    ) -> None:
        self._overview = overview
        self._fleet = fleet
        self.rates = rates
        self._listen = listen
        self.stopping = stopping
        # Each may look at all files of the spool; one more, so that a page need not wait for the
        # counts of another.
        self._limiter = trio.CapacityLimiter(2)

    @property
    def hosts(self) -> frozenset[str]:
        """Names under which the page may be asked for; the nodes list may have changed them."""
        nodes = self._fleet.nodes()
        own = nodes.get(nodes.my_id)
        return allowed_hosts(self._listen, [] if own is None else [own.hostname])

    async def overview(self) -> Overview:
        """Return the overview."""
        return await self._overview()

    async def nodes(self, choice: NodesChoice, part: str, waiting: Mapping[str, int]) -> NodesPage:
        """Return nodes. Raises `RelaydError` for a choice that fits nothing."""
        return await self._look(
            partial(self._fleet.view.some, self._known(), choice, part, waiting)
        )

    async def summary(self, silent_s: float) -> Summary:
        """Return what there is to say of all nodes."""
        return await self._look(partial(self._fleet.view.summary, self._known(), silent_s))

    async def waiting(self) -> Mapping[str, int]:
        """Return how many files of each node wait. Raises `RelaydError` if they are unreadable."""
        return await self._look(self._fleet.view.waiting)

    def _known(self) -> Known:
        return known_nodes(self._fleet.nodes(), self._fleet.records.copy())

    async def _look(self, work: Callable[[], T]) -> T:
        return await in_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    async def node(self, part: str) -> NodeDetail:
        """Return all about a node. Raises `RelaydError` if there is none."""
        fleet, nodes = self._fleet, self._fleet.nodes()
        node_id = await in_thread(find, nodes, part, abandon_on_cancel=True)
        asked = await fleet.ask(node_id, follow=False)
        known = known_node(nodes, fleet.records, node_id)
        work = partial(fleet.view.one, known, node_id, asked)
        return await self._look(work)

    async def refused(self, reason: str, limit: int) -> Refusals:
        """Return refused files."""
        return await self._look(partial(self._fleet.view.refused, reason, limit))

    async def file(self, name: str) -> FilePlace:
        """Return where a file is."""
        return await self._look(partial(self._fleet.view.where, name))
