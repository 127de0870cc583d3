"""Which pipelines run: one for each output that the configuration names."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import trio

from relayd.config.main_conf import Settings
from relayd.fleet.current_nodes import CurrentNodes
from relayd.fleet.pins import PinnedClients
from relayd.outputs.results import Probe, StoreFacts
from relayd.pipelines.line import Change
from relayd.system.delays import Delays
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords


class Pipeline(Protocol):
    """What the service knows of a pipeline.

    Attributes:
        name: of its task.
        probes: checks of its output, by the name that the status shows.
    """

    name: str
    probes: Mapping[str, Probe]

    def facts(self) -> StoreFacts:
        """Return what the status shows of its output besides the check."""

    async def run(self, stop: trio.Event) -> None:
        """Process files until `stop` is set and all that was taken up is disposed of."""

    async def wait_until_taking(self) -> None:
        """Return once files are taken, or wait only for what an operator has to provide."""

    def reconfigure(self, settings: Settings) -> None:
        """Take over from a reloaded configuration what needs no restart, and retry with it."""

    def wake(self, changed: Change) -> None:
        """Retry now what this change may have fixed."""


@asynccontextmanager
async def open_pipelines(
    settings: Settings,
    trust: CurrentNodes,
    peers: PinnedClients,
    metrics: Metrics,
    delays: Delays,
    records: NodeRecords,
) -> AsyncIterator[list[Pipeline]]:
    """Open the pipelines that are configured; what the others need is not even imported.

    Raises:
        StartError: a spool cannot be used, or another relayd uses it.
    """
    outputs = {settings.processing.reporting.output, settings.processing.inventory.output}
    pipelines: list[Pipeline] = []
    async with AsyncExitStack() as stack:
        if "database" in outputs:
            from relayd.outputs.postgres.database import open_database
            from relayd.pipelines.reporting import open_reporting

            database = open_database(settings, metrics.lock_wait_seconds.inc)
            store = await stack.enter_async_context(database)
            reporting = open_reporting(settings, trust, metrics, store, delays, records)
            pipelines.append(await stack.enter_async_context(reporting))
        if "upstream" in outputs:
            from relayd.pipelines.forwarding import open_forwarding

            forwarding = open_forwarding(settings, peers, metrics, delays, records=records)
            pipelines.append(await stack.enter_async_context(forwarding))
        yield pipelines
