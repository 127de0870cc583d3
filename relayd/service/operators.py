"""What operators ask and steer, made from the parts of the service when somebody first asks.

Nothing of it is loaded at the start: most relays run for weeks without a question.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from relayd.api.page.pages import Pages
    from relayd.api.status import StatusReader
    from relayd.config.main_conf import Settings
    from relayd.control.nodes import Fleet
    from relayd.fleet.current_nodes import CurrentNodes
    from relayd.fleet.nodes import Nodes
    from relayd.fleet.peers.client import Clients
    from relayd.overview.collect import Collector
    from relayd.pipelines.pausing import Pausing
    from relayd.pipelines.steering import Steering
    from relayd.remote_run.runs import RemoteRuns
    from relayd.service.pipelines import Pipeline
    from relayd.telemetry.metrics import Metrics
    from relayd.telemetry.nodes.records import NodeRecords
    from relayd.telemetry.rates import Rates


class Parts(Protocol):
    """The parts of a service that are asked and steered; see `relayd.service.tree.Service`."""

    settings: Settings
    trust: CurrentNodes
    clients: Clients
    metrics: Metrics
    records: NodeRecords
    rates: Rates
    pausing: Pausing
    pipelines: Sequence[Pipeline]
    remote_runs: RemoteRuns | None
    started_at: float

    def status_reader(self) -> StatusReader:
        """Return what checks the current state."""

    def retry_pipelines(self) -> None:
        """Have outputs that wait tried now."""

    async def reload(self) -> None:
        """Read logging, nodes, certificates and passwords again; raise RelaydError."""


class OperatorTools:
    """The control socket's application, the page, and what both of them show.

    Args:
        service: whose parts are asked and steered.
    """

    def __init__(self, service: Parts) -> None:
        self._service = service

    def control_app(self) -> Any:
        """Return the application of the control socket."""
        from relayd.overview.server import kinds_of
        from relayd.service.control import Controls, control_app

        service = self._service
        return control_app(
            Controls(
                service.status_reader(),
                service.reload,
                service.pausing,
                kinds_of(service.settings),
                self.overview,
                self._steering(),
                self.fleet,
                service.remote_runs,
            )
        )

    def pages(self, root: trio.Nursery, stop: trio.Event) -> Pages:
        """Return what answers the requests of the page for administrators.

        Args:
            root: for its tasks.
            stop: set when clients have to leave.
        """
        from relayd.api.page.pages import Pages
        from relayd.service.page import PageSource

        service = self._service
        listen = service.settings.general.listen
        return Pages(PageSource(self.overview, self.fleet, service.rates, listen, stop), root)

    async def ask_way(self, node_id: str, passed: int) -> dict[str, Any] | None:
        """Return what this relayd, and those below it, know of a node; None if it is not known."""
        return await self.fleet.way.answer(node_id, passed)

    @cached_property
    def fleet(self) -> Fleet:
        """What answers about nodes."""
        from relayd.control.nodes import Fleet
        from relayd.overview.fleet import FleetView
        from relayd.overview.way import Way

        service = self._service
        general = service.settings.general

        def nodes() -> Nodes:
            return service.trust.nodes

        view = FleetView(service.settings, gently=True)
        records, known = service.records, service.trust.known
        way = Way(view, nodes, records, service.clients, general.https_port, known)
        stores = [one.last_run for one in service.pipelines if one.last_run is not None]
        return Fleet(view, nodes, records, way, *stores)

    @cached_property
    def overview(self) -> Collector:
        """What says whether all is well."""
        from relayd.overview.collect import Collector
        from relayd.overview.measures import Measured

        service = self._service
        return Collector(
            service.settings,
            service.trust,
            lambda: service.pipelines,
            lambda: service.pausing.pause,
            Measured(service.metrics, service.rates, service.records),
            service.started_at,
        )

    def _steering(self) -> Steering:
        from relayd.pipelines.steering import Steering
        from relayd.spool.layout import spools_of

        service = self._service
        lines = [line for pipeline in service.pipelines for line in pipeline.lines]
        spools = spools_of(service.settings)
        return Steering(spools, lines, lambda: service.trust.nodes, service.retry_pipelines)
