"""Which pipelines run: one for each output that the configuration names."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import trio

from relayd.config.main_conf import Settings
from relayd.fleet.current_nodes import CurrentNodes
from relayd.fleet.pins import PinnedClients
from relayd.outputs.health import Health
from relayd.outputs.results import Probe, StoreFacts
from relayd.overview.model import Kind
from relayd.pipelines.line import Change, Line
from relayd.spool.watching.valve import Valve
from relayd.system.delays import Delays
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords


class Pipeline(Protocol):
    """What the service knows of a pipeline.

    Attributes:
        name: of its task.
        lines: its watched directories.
        probes: checks of its output, by the name that the status shows.
        health: of its output.
        last_run: returns the start of the last stored run of a node, Unix time, None if there is
            none; raises `RelaydError`. None where run logs are not stored.
    """

    name: str
    lines: Sequence[Line]
    health: Health
    probes: Mapping[str, Probe]
    last_run: Callable[[str], Awaitable[float | None]] | None

    def facts(self) -> StoreFacts:
        """Return what the status shows of its output besides the check."""

    async def run(self, stop: trio.Event) -> None:
        """Process files until `stop` is set and all that was taken up is disposed of."""

    async def wait_until_taking(self) -> None:
        """Return once files are taken, or wait only for what an operator has to provide."""

    def reconfigure(self, settings: Settings) -> None:
        """Take over from a reloaded configuration what needs no restart, and retry with it."""

    def retry(self) -> None:
        """Try the output now, and all files that wait for another attempt."""

    def wake(self, changed: Change) -> None:
        """Retry now what this change may have fixed."""


@asynccontextmanager
async def open_pipelines(
    settings: Settings,
    trust: CurrentNodes,
    peers: PinnedClients,
    metrics: Metrics,
    delays: Delays,
    valves: Mapping[Kind, Valve],
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
            from relayd.outputs.postgres.session import Notes
            from relayd.pipelines.reporting import open_reporting

            notes = Notes(
                waited=metrics.lock_wait_seconds.inc,
                committed=metrics.commit_wait_seconds.inc,
                connected=lambda _server: metrics.database_connections.inc(),
                found=lambda server: metrics.note_server(
                    server.address, server.role, server.timeline or None
                ),
                partitions_end=metrics.partitions_end.set,
            )
            database = open_database(settings, notes)
            store = await stack.enter_async_context(database)
            valve = valves["reporting"]
            reporting = open_reporting(settings, trust, metrics, store, delays, valve, records)
            pipelines.append(await stack.enter_async_context(reporting))
        if "upstream" in outputs:
            from relayd.pipelines.forwarding import open_forwarding

            forwarding = open_forwarding(
                settings, peers, metrics, delays, valves=valves, records=records
            )
            pipelines.append(await stack.enter_async_context(forwarding))
        yield pipelines
