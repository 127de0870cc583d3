"""The tree of tasks: everything is started, supervised and stopped here.

    asyncio loop (only with a database)
    └── root nursery
        ├── signals          SIGHUP → reload, SIGTERM and SIGINT → graceful stop
        ├── reloads          what SIGHUP asked for, one after the other
        ├── HTTP API         until the pipeline has drained
        ├── remote runs      a task for each run, its commands and calls below it
        ├── examiner         a thread, or worker processes
        ├── trust            nodes list and certificates, tried again until they load
        ├── peers            pins and connections of other policy servers
        ├── pipelines        run logs to the database, once nodes are known; files to the upstream
        ├── announce         tells the service manager once files are taken
        ├── watchdog         tells the service manager that the event loop runs
        ├── expiry           shared files whose time is over
        └── canary           how late the event loop runs

An exception in any of these is a bug: it cancels the others and ends the process with exit code
1. systemd starts it again, and the spool makes that safe.
"""

import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from relayd import __version__
from relayd.api.app import Services, make_app
from relayd.api.server.server import run_server
from relayd.api.shared_files import SharedFiles
from relayd.api.shared_folder import SharedFolder
from relayd.api.status import StatusReader
from relayd.config.main_conf import Settings, changed_keys, load_logging, load_settings
from relayd.errors import ConfigError, NodesError, RelaydError, StartError
from relayd.fleet.current_nodes import CurrentNodes
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import PinnedClients
from relayd.remote_run.runs import RemoteRuns, make_runs
from relayd.service.systemd import Notifier, take_notifier
from relayd.shared.expiry import run_expiry
from relayd.shared.store import Store
from relayd.shared.upstream import UpstreamFiles
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import configure, dropped, get_logger, open_logging
from relayd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from relayd.pipelines.forwarding import Forwarding
    from relayd.pipelines.reporting import Reporting

log = get_logger("main")

#: How long a thread may keep the event loop waiting for the interpreter lock (5 ms by default).
SWITCH_INTERVAL_S: Final = 0.001
#: After a stop signal, what is in flight may take this long to be committed and disposed of.
DRAIN_TIMEOUT_S: Final = 4.0
HTTP_GRACE_S: Final = 10.0
CANARY_PERIOD_S: Final = 0.1

T = TypeVar("T")


def run(directory: Path) -> int:
    """Run relayd on a configuration directory until it is told to stop.

    Returns:
        0 after a graceful stop, 1 after a crash, whose traceback is logged.

    Raises:
        ConfigError: a configuration file is not valid.
        StartError: anything else prevents the start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings, warnings = load_settings(directory)
    logging = load_logging(directory)
    with open_logging():
        configure(logging)
        for warning in warnings:
            log.warning("configuration", detail=warning)
        try:
            main = partial(_main, directory, settings, take_notifier())
            trio.run(main, strict_exception_groups=True)
        except (ConfigError, StartError):
            raise
        except BaseException as error:
            expected = _only_start_errors(error)
            if expected is not None:
                raise expected from None
            log.exception("crashed", detail=type(error).__name__)
            return 1
    return 0


def _only_start_errors(error: BaseException) -> RelaydError | None:
    """Return the first leaf of a group in which nothing else went wrong than the start."""
    if isinstance(error, ConfigError | StartError):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    leaves = [_only_start_errors(leaf) for leaf in error.exceptions]
    return leaves[0] if all(leaves) else None


async def _main(directory: Path, settings: Settings, notifier: Notifier) -> None:
    async with AsyncExitStack() as stack:
        if settings.processing.reporting.output == "database":
            await stack.enter_async_context(_asyncio_bridge())
        await Service(directory, settings, notifier).run()


@asynccontextmanager
async def _asyncio_bridge() -> AsyncIterator[None]:
    import trio_asyncio

    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_asyncio_error)
        yield


def _log_asyncio_error(_loop: object, context: dict[str, Any]) -> None:
    """Asyncpg's stray tasks end here, when a server vanishes; stock behaviour is to crash."""
    get_logger("database").debug(
        "asyncio", detail=str(context.get("message")), error=repr(context.get("exception"))
    )


class Service:
    """One relayd: what its tasks share, and the order in which they start and stop."""

    def __init__(self, directory: Path, settings: Settings, notifier: Notifier) -> None:
        self.directory = directory
        self.settings = settings
        self.notifier = notifier
        self.metrics = Metrics()
        self.trust = CurrentNodes(
            settings.general.nodes_list_file,
            settings.general.nodes_certs_file,
            settings.node_id(),
            self.metrics,
            list_needed=settings.processing.reporting.output == "database",
        )
        self.peers = PinnedClients(settings, self.metrics)
        self.clients = self.peers.clients
        self.remote_runs: RemoteRuns | None = None
        if settings.remote_run.enabled:
            self.remote_runs = make_runs(
                settings, self.clients, lambda: self.trust.nodes, self.metrics
            )
        self.shared_store = Store(self.settings.shared_files.path)
        self.reporting: Reporting | None = None
        self.forwarding: Forwarding | None = None
        self.stopping = trio.Event()
        self._http_stop = trio.Event()
        self._http_ended = trio.Event()
        self._reload_wanted = Wake()
        self._reload_lock = trio.Lock()
        self._reading = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Start everything, waits for a stop signal, drains, stops."""
        general = self.settings.general
        if general.blocking_threads is not None:
            trio.to_thread.current_default_thread_limiter().total_tokens = general.blocking_threads
        self.metrics.peer_authentication_disabled.set(
            general.peer_authentication == "dangerous_none"
        )
        async with self._open_reporting(), self._open_forwarding(), trio.open_nursery() as root:
            await root.start(self._run_signals, name="signals")
            root.start_soon(self._run_reloads, name="reloads")
            root.start_soon(self.peers.run, self._pins_changed, name="peers")
            if self.remote_runs is not None:
                root.start_soon(self.remote_runs.run, name="remote runs")
            urls = await root.start(self._run_http, name="http")
            root.start_soon(self._run_canary, name="canary")
            root.start_soon(self._run_expiry, name="expiry")
            root.start_soon(self.trust.run, self._nodes_changed, name="trust")
            await self._first_load()
            drained = trio.Event()
            root.start_soon(self._run_pipelines, drained, name="pipelines")
            log.info("started", version=__version__, api=", ".join(urls))
            root.start_soon(self._run_announce, ", ".join(urls), name="announce")
            root.start_soon(self.notifier.run_watchdog, name="watchdog")
            await self.stopping.wait()
            log.info("stopping")
            await self.notifier.stopping()
            with trio.move_on_after(DRAIN_TIMEOUT_S) as scope:
                await drained.wait()
            if scope.cancelled_caught:
                log.warning("stopped with files in flight, they stay in the spool")
            self._http_stop.set()
            await self._http_ended.wait()
            root.cancel_scope.cancel()
        log.info("stopped")

    async def _run_http(self, *, task_status: trio.TaskStatus[list[str]]) -> None:
        await run_server(
            make_app(self._services()),
            self.settings.general.listen,
            stop=self._http_stop,
            grace=HTTP_GRACE_S,
            task_status=task_status,
        )
        self._http_ended.set()

    def _services(self) -> Services:
        """Return what the HTTP API offers."""
        return Services(
            self._status_reader(),
            self.reload,
            self.metrics,
            __version__,
            self.remote_runs,
            shared_folder=SharedFolder(self.settings.shared_folder.path),
            shared_files=SharedFiles(
                self.shared_store,
                self.trust,
                self.metrics,
                self.settings.shared_files.max_body_size,
                self._upstream_files(),
            ),
        )

    def _upstream_files(self) -> UpstreamFiles | None:
        """Return the way to shared files of nodes that are not below; the root server has none."""
        if self.trust.nodes.my_id == "root":
            return None
        upstream, port = self.settings.output.upstream, self.settings.general.https_port
        return UpstreamFiles(self.clients, base_url(upstream.host, port))

    async def _run_expiry(self) -> None:
        await run_expiry(self.shared_store, self.settings.shared_files.cleanup.frequency)

    @asynccontextmanager
    async def _open_reporting(self) -> AsyncIterator[None]:
        """The reporting pipeline's parts, the database stack among them, only where it is on."""
        if self.settings.processing.reporting.output != "database":
            yield
            return
        from relayd.pipelines.reporting import open_reporting

        async with open_reporting(self.settings, self.trust, self.metrics) as self.reporting:
            yield

    @asynccontextmanager
    async def _open_forwarding(self) -> AsyncIterator[None]:
        """The parts of the pipelines to the upstream, where one is on."""
        processing = self.settings.processing
        if "upstream" not in (processing.reporting.output, processing.inventory.output):
            yield
            return
        from relayd.pipelines.forwarding import open_forwarding

        async with open_forwarding(self.settings, self.peers, self.metrics) as self.forwarding:
            yield

    async def _run_announce(self, api: str) -> None:
        """The start is done once files are taken, or wait for nothing but the nodes list."""
        if self.reporting is not None:
            await self.reporting.taking.wait()
        if self.forwarding is not None:
            await self.forwarding.wait_until_taking()
        await self.notifier.ready(f"version {__version__}, API on {api}")

    async def _run_pipelines(self, drained: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            if self.reporting is not None:
                nursery.start_soon(self.reporting.run, self.stopping, name="reporting")
            if self.forwarding is not None:
                nursery.start_soon(self.forwarding.run, self.stopping, name="forwarding")
        drained.set()

    async def _first_load(self) -> None:
        try:
            await self.trust.load()
        except NodesError:
            return
        self._nodes_changed()

    def _nodes_changed(self) -> None:
        self.peers.take_nodes(self.trust.nodes)
        if self.reporting is not None:
            self.reporting.nodes_changed()

    def _pins_changed(self) -> None:
        if self.forwarding is not None:
            self.forwarding.wake()

    async def reload(self) -> None:
        """Read logging, nodes, certificates and passwords anew; docs/configuration.md has more.

        Raises:
            RelaydError: something could not be read; what was in force before still is.
        """
        async with self._reload_lock, self.notifier.reload():
            settings, warnings = await self._read_aside(load_settings)
            logging = await self._read_aside(load_logging)
            pins = await self.peers.read_upstream()
            await self.trust.load()
            self.peers.take_upstream(pins)
            configure(logging)
            for warning in warnings:
                log.warning("configuration", detail=warning)
            self._apply(settings)
            self._nodes_changed()
            log.info("reloaded")

    async def _read_aside(self, read: Callable[[Path], T]) -> T:
        """Read in a thread that may be left alone: files may hang, which must not delay a stop."""
        return await in_thread(read, self.directory, abandon_on_cancel=True, limiter=self._reading)

    def _apply(self, settings: Settings) -> None:
        for key in changed_keys(self.settings, settings):
            log.warning("a changed key needs a restart", key=key)
        if self.reporting is not None and settings.processing.reporting.output == "database":
            self.reporting.reconfigure(settings)
        if self.forwarding is not None:
            self.forwarding.reconfigure(settings)

    async def _run_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload_wanted.set()
                else:
                    self.stopping.set()

    async def _run_reloads(self) -> None:
        """Beside the signals, so that a reload that takes its time does not delay a stop."""
        while True:
            await self._reload_wanted.wait()
            try:
                await self.reload()
            except RelaydError as error:
                log.error("reload failed, nothing was changed", detail=str(error))

    def _status_reader(self) -> StatusReader:
        database = None if self.reporting is None else self.reporting.database.probe
        return StatusReader(self._read_configuration, database)

    def _read_configuration(self) -> None:
        """Raise what is wrong with the configuration on disk, or with the nodes in force."""
        load_settings(self.directory)
        load_logging(self.directory)
        if self.trust.trouble is not None:
            raise NodesError(self.trust.trouble)

    async def _run_canary(self) -> None:
        told = 0
        while True:
            due = time.monotonic() + CANARY_PERIOD_S
            await trio.sleep(CANARY_PERIOD_S)
            self.metrics.event_loop_lag_seconds.observe(max(0.0, time.monotonic() - due))
            lost = dropped()
            self.metrics.log_dropped.inc(lost - told)
            told = lost
