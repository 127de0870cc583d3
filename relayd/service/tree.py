"""The tree of tasks: everything is started, supervised and stopped here.

    asyncio loop (only with a database)
    └── root nursery
        ├── signals          SIGHUP → reload, SIGTERM and SIGINT → graceful stop
        ├── reloads          what SIGHUP asked for, one after the other
        ├── HTTP API         until the pipelines have drained
        ├── front door       the same for agents and relays, if `server.listen` is set
        ├── control          the control socket, for the commands of operators, as long as the API
        ├── remote runs      a task for each run, its commands and calls below it
        ├── first nodes      nodes list and certificates, for the first time
        ├── trust            nodes list and certificates, retried until they load
        ├── peers            pins and connections of other policy servers
        ├── pipelines        one for each output that is configured
        ├── announce         informs the service manager once files are taken
        ├── status           informs the service manager when the number of waiting files changes
        ├── watchdog         informs the service manager that the event loop runs
        ├── expiry           removal of expired shared files
        ├── pauses           those that end by themselves
        ├── saving           records of the nodes
        ├── sampling         rates of the last day
        └── canary           how late the event loop runs

An exception in any of these is a bug: it cancels the others and ends the process with exit code
1. systemd starts it again, and the spool makes that safe.
"""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from relayd import __version__
from relayd.api.app import App, Services, make_app
from relayd.api.server.passed import PassedSocket, take_sockets
from relayd.api.server.server import run_server
from relayd.api.shared_files import SharedFiles
from relayd.api.shared_folder import SharedFolder
from relayd.api.status import StatusReader
from relayd.config.files import load_files
from relayd.config.in_force import File, modified
from relayd.config.logging_conf import LOGGING_FILE
from relayd.config.main_conf import MAIN_FILE, Settings, changed_keys
from relayd.config.proxy import environment_warnings
from relayd.control.server import run_control
from relayd.errors import (
    ConfigError,
    ConfigWarning,
    NodesError,
    RelaydError,
    StartError,
    TransientStartError,
)
from relayd.fleet.current_nodes import CurrentNodes
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import PinnedClients
from relayd.pipelines.line import Change
from relayd.pipelines.pausing import PauseFile, Pausing
from relayd.remote_run.runs import RemoteRuns, make_runs
from relayd.service.operators import OperatorTools
from relayd.service.pipelines import Pipeline, open_pipelines
from relayd.service.records import SavedRecords
from relayd.service.signals import early_signals
from relayd.service.systemd import Notifier, take_notifier
from relayd.shared.expiry import run_expiry
from relayd.shared.store import Store
from relayd.shared.upstream import UpstreamFiles
from relayd.shared.usage import Quota, Usage
from relayd.system.delays import DELAYS, Delays
from relayd.system.libc import trim_memory
from relayd.system.shortage import THREAD_LIMIT, shortage_of
from relayd.system.threads import in_thread, observe_shortage
from relayd.system.wake import Wake
from relayd.telemetry.logs import configure, dropped, get_logger, open_logging
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.rates import PERIOD_S, Rates

if TYPE_CHECKING:
    from relayd.api.door.door import Door
    from relayd.api.page.pages import Pages

log = get_logger("main")

#: How long a thread may keep the event loop waiting for the interpreter lock (5 ms by default).
SWITCH_INTERVAL_S: Final = 0.001
#: After a stop signal, what is in flight may take this long to be committed and disposed of.
DRAIN_TIMEOUT_S: Final = 4.0
HTTP_GRACE_S: Final = 10.0
#: The nodes of a large fleet take some seconds; files that need none of them do not wait longer.
FIRST_LOAD_S: Final = 5.0
CANARY_PERIOD_S: Final = 0.1

T = TypeVar("T")


def run(directory: Path) -> int:
    """Run relayd on a configuration directory until a signal ends it.

    Returns:
        0 after a graceful stop, 1 after a crash, whose traceback is logged.

    Raises:
        ConfigError: a configuration file is not valid.
        StartError: anything else prevents the start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    observe_shortage(_log_shortage)
    times = _times(directory)
    settings, logging, warnings = load_files(directory)
    with open_logging():
        configure(logging)
        proxy, host = settings.general.https_proxy, settings.output.upstream.host
        for warning in (*warnings, *environment_warnings(proxy, host, os.environ)):
            log.warning("configuration", detail=warning)
        service: Service | None = None
        try:
            service = Service(directory, settings, take_notifier(), sockets=take_sockets())
            service.reported = frozenset(warnings)
            service.note_files(times)
            trio.run(service.run, strict_exception_groups=True)
        except (ConfigError, StartError):
            raise
        except BaseException as error:
            starting = service is None or not service.started
            expected = _only_start_errors(error, starting=starting)
            if expected is not None:
                raise expected from None
            log.exception("crashed", detail=type(error).__name__)
            return 1
    return 0


def _times(directory: Path) -> dict[File, float]:
    """Return when the files of the configuration were modified; to be called before reading."""
    return {"main": modified(directory / MAIN_FILE), "logging": modified(directory / LOGGING_FILE)}


def _only_start_errors(error: BaseException, *, starting: bool) -> RelaydError | None:
    """Return the first error of a group in which all are errors of the start."""
    if isinstance(error, ConfigError | StartError):
        return error
    if isinstance(error, BaseExceptionGroup):
        leaves = [_only_start_errors(leaf, starting=starting) for leaf in error.exceptions]
        return leaves[0] if all(leaves) else None
    shortage = shortage_of(error) if starting else None
    return None if shortage is None else TransientStartError(f"cannot start: {shortage}")


def _keep_what_is_loaded() -> None:
    """Return what only the start needed, and look for garbage from now on, but not in the rest."""
    gc.collect()
    gc.freeze()
    gc.enable()
    trim_memory()


def _log_shortage(work: str) -> None:
    log.warning("cannot start a thread; retrying", work=work, limit=THREAD_LIMIT)


class Service:
    """One relayd: what its tasks share, and the order in which they start and stop.

    Attributes:
        reported: warnings about the configuration that were logged already.
        records: the record of each node.
        rates: the recent past of run logs.
        started_at: Unix time.
        pipelines: one for each output that is configured, while they run.
    """

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        notifier: Notifier,
        delays: Delays = DELAYS,
        sockets: Sequence[PassedSocket] = (),
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.notifier = notifier
        self.reported: frozenset[ConfigWarning] = frozenset()
        self.metrics = Metrics()
        self.records = NodeRecords(self.metrics.totals)
        lag = partial(self.metrics.lag.quantile, "here")
        self.rates = Rates(
            self.records.totals,
            lambda: self.metrics.waiting,
            lag,
            flowing_since=self._flowing_since,
        )
        self.metrics.drain_rate.set_function(self.rates.drain_rate)
        self.metrics.drain_seconds.set_function(self.rates.drain_s)
        self.trust = CurrentNodes(
            settings.general.nodes_list_file,
            settings.general.nodes_certs_file,
            settings.node_id(),
            self.metrics,
            list_needed=settings.processing.reporting.examined_here,
            delays=delays.nodes,
        )
        self.peers = PinnedClients(settings, self.metrics, delays.pins)
        self.clients = self.peers.clients
        self.remote_runs: RemoteRuns | None = None
        if settings.remote_run.enabled:
            self.remote_runs = make_runs(
                settings, self.clients, lambda: self.trust.nodes, self.metrics, self.trust.known
            )
        shared = settings.shared_files
        self.pausing = Pausing(PauseFile(settings.general.state_directory), self.metrics)
        self.shared_store = Store(shared.path)
        self.shared_usage = Usage(Quota(shared.max_files, shared.max_size))
        self.door: Door | None = None
        self._sockets = sockets
        if sockets and not settings.server.listen:
            raise StartError("the service manager passes sockets, but server.listen is empty")
        self._api: App | None = None
        self._tools = OperatorTools(self)
        self._delays = delays
        self.pipelines: Sequence[Pipeline] = ()
        self.started = False
        self.started_at = time.time()
        self.stopping = trio.Event()
        self._root: trio.Nursery | None = None
        self._http_stop = trio.Event()
        self._http_ended = trio.Event()
        self._door_ended = trio.Event()
        self._control_ended = trio.Event()
        self._reload_wanted = Wake()
        self._reload_lock = trio.Lock()
        self._reading = trio.CapacityLimiter(1)
        self._saved = SavedRecords(settings.general.state_directory, self.records)

    async def run(self) -> None:
        """Start everything, wait for a stop signal, drain, stop."""
        general = self.settings.general
        if general.blocking_threads is not None:
            trio.to_thread.current_default_thread_limiter().total_tokens = general.blocking_threads
        self.metrics.peer_authentication_disabled.set(
            general.peer_authentication == "dangerous_none"
        )
        await self.pausing.load()
        async with (
            open_pipelines(
                self.settings,
                self.trust,
                self.peers,
                self.metrics,
                self._delays,
                self.pausing.valves,
                self.records,
            ) as self.pipelines,
            trio.open_nursery() as root,
        ):
            self._root = root
            await root.start(self._run_signals, name="signals")
            root.start_soon(self._run_reloads, name="reloads")
            root.start_soon(self.peers.run, partial(self._wake_pipelines, "pins"), name="peers")
            if self.remote_runs is not None:
                root.start_soon(self.remote_runs.run, name="remote runs")
            urls = await root.start(self._run_http, name="http")
            root.start_soon(self._run_control, name="control")
            root.start_soon(self._run_canary, name="canary")
            root.start_soon(self.pausing.run, name="pauses")
            root.start_soon(self._run_sampling, name="sampling")
            await self._saved.restore()
            root.start_soon(self._saved.run, name="saving")
            root.start_soon(self._run_expiry, name="expiry")
            root.start_soon(self.trust.run, self._nodes_loaded, name="trust")
            await self._first_load(root)
            if self.settings.server.listen:
                door_urls = await root.start(self._run_door, name="door")
                urls += [url.replace("http:", "https:", 1) for url in door_urls]
            drained = trio.Event()
            root.start_soon(self._run_pipelines, drained, name="pipelines")
            self.started = True
            log.info("started", version=__version__, api=", ".join(urls))
            root.start_soon(self._run_announce, ", ".join(urls), name="announce")
            _keep_what_is_loaded()
            root.start_soon(self.notifier.run_status, name="status")
            root.start_soon(self.notifier.run_watchdog, name="watchdog")
            await self.stopping.wait()
            log.info("stopping")
            await self.notifier.stopping()
            with trio.move_on_after(DRAIN_TIMEOUT_S) as scope:
                await drained.wait()
            if scope.cancelled_caught:
                log.warning("stopped with files in flight; they stay in the spool")
            self._http_stop.set()
            await self._http_ended.wait()
            if self.door is not None:
                await self._door_ended.wait()
            await self._control_ended.wait()
            await self._saved.save()
            root.cancel_scope.cancel()
        log.info("stopped")

    async def _run_http(self, *, task_status: trio.TaskStatus[list[str]]) -> None:
        self._api = make_app(self._services())
        await run_server(
            self._api,
            self.settings.general.listen,
            stop=self._http_stop,
            grace=HTTP_GRACE_S,
            task_status=task_status,
        )
        self._http_ended.set()

    async def _run_door(self, *, task_status: trio.TaskStatus[list[str]]) -> None:
        from relayd.api.door.door import Door

        self.door = Door(
            self.settings, self.trust, self.metrics, cast("Any", self._api), self._sockets
        )
        await self.door.run(self._http_stop, HTTP_GRACE_S, task_status=task_status)
        self._door_ended.set()

    async def _run_control(self) -> None:
        path = self.settings.general.control_socket
        if path is not None:
            await run_control(path, self._tools.control_app, self._http_stop, HTTP_GRACE_S)
        self._control_ended.set()

    def _flowing_since(self) -> float:
        """Return the Unix time since which all outputs accept files; infinity if one does not."""
        healths = [pipeline.health for pipeline in self.pipelines]
        if any(health.trouble is not None for health in healths):
            return math.inf
        return max((one.since for one in healths if one.since is not None), default=-math.inf)

    def retry_pipelines(self) -> None:
        """Have outputs that wait tried now."""
        for pipeline in self.pipelines:
            pipeline.retry()

    def _services(self) -> Services:
        """Return what the HTTP API offers."""
        return Services(
            self.status_reader(),
            self.reload,
            self.metrics,
            __version__,
            self.remote_runs,
            pages=self._pages,
            shared_folder=SharedFolder(self.settings.shared_folder.path),
            shared_files=SharedFiles(
                self.shared_store,
                self.trust,
                self.metrics,
                self.shared_usage,
                self.settings.shared_files.max_body_size,
                self.settings.shared_files.max_ttl,
                self._upstream_files(),
            ),
            ask_way=self._tools.ask_way,
        )

    def _upstream_files(self) -> UpstreamFiles | None:
        """Return the client for files of nodes that are not below; the root server has none."""
        if self.trust.nodes.my_id == "root":
            return None
        upstream, port = self.settings.output.upstream, self.settings.general.https_port
        return UpstreamFiles(self.clients, base_url(upstream.host, port))

    def _pages(self) -> "Pages":
        assert self._root is not None
        return self._tools.pages(self._root, self._http_stop)

    async def _run_expiry(self) -> None:
        frequency = self.settings.shared_files.cleanup.frequency
        await run_expiry(self.shared_store, self.shared_usage, frequency)

    async def _run_announce(self, api: str) -> None:
        """Report the start as done once files are taken, or wait only for the nodes list."""
        for pipeline in self.pipelines:
            await pipeline.wait_until_taking()
        await self.notifier.ready(partial(self._describe, api))

    def _describe(self, api: str) -> str:
        return f"version {__version__}, API on {api}, files waiting: {self.metrics.waiting}"

    async def _run_pipelines(self, drained: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            for pipeline in self.pipelines:
                nursery.start_soon(pipeline.run, self.stopping, name=pipeline.name)
        drained.set()

    async def _first_load(self, root: trio.Nursery) -> None:
        """Load the nodes; go on without them if that takes long, as in a file system that hangs."""
        tried = trio.Event()
        root.start_soon(self._load_nodes, tried, name="first nodes")
        with trio.move_on_after(FIRST_LOAD_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_at_stop, nursery.cancel_scope)
                await tried.wait()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            log.warning("the nodes are still being read; files that depend on them wait")

    async def _load_nodes(self, tried: trio.Event) -> None:
        try:
            await self.trust.load()
        except NodesError:
            pass
        else:
            self._nodes_loaded()
        tried.set()

    async def _cancel_at_stop(self, scope: trio.CancelScope) -> None:
        await self.stopping.wait()
        scope.cancel()

    def _nodes_loaded(self) -> None:
        """Take note of nodes that were loaded by themselves, not by a reload."""
        self._nodes_changed()
        if self.door is not None:
            self.door.wake()

    def _nodes_changed(self) -> None:
        self.records.follow(self.trust.nodes.ids())
        self.peers.take_nodes(self.trust.nodes)
        self._wake_pipelines("nodes")

    def _wake_pipelines(self, changed: Change) -> None:
        for pipeline in self.pipelines:
            pipeline.wake(changed)

    async def reload(self) -> None:
        """Read logging, nodes, certificates and passwords again, see docs/configuration.md.

        Raises:
            RelaydError: something could not be read; nothing has changed.
        """
        async with self._reload_lock, self.notifier.reload():
            try:
                await self._reload()
            except RelaydError as error:
                for one in error.each():
                    log.error("reload failed; nothing was changed", detail=str(one))
                raise
            log.info("reloaded")

    async def _reload(self) -> None:
        times = await self._read_in_thread(_times)
        settings, logging, warnings = await self._read_in_thread(load_files)
        pins = await self.peers.read_upstream()
        if self.door is not None:
            await self.door.check()
        await self.trust.load()
        self.peers.take_upstream(pins)
        configure(logging)
        self.note_files(times)
        self._report_warnings(warnings)
        self._apply(settings)
        if self.door is not None:
            await self.door.renew()
        self._nodes_changed()

    def note_files(self, times: Mapping[File, float]) -> None:
        """Record which versions of the files of the configuration are in use."""
        for file, modified_at in times.items():
            self.metrics.note_file(file, modified_at)

    def _report_warnings(self, warnings: Sequence[ConfigWarning]) -> None:
        """Log what was not logged at the start or by the last reload."""
        for warning in warnings:
            if warning not in self.reported:
                log.warning("configuration", detail=warning)
        self.reported = frozenset(warnings)

    async def _read_in_thread(self, read: Callable[[Path], T]) -> T:
        """Read in a thread that may be abandoned: a hanging file system must not delay a stop."""
        return await in_thread(read, self.directory, abandon_on_cancel=True, limiter=self._reading)

    def _apply(self, settings: Settings) -> None:
        keys = changed_keys(self.settings, settings)
        self.metrics.restart_needed_keys.set(len(keys))
        if keys:
            log.warning("changed keys need a restart", keys=", ".join(keys))
        for pipeline in self.pipelines:
            pipeline.reconfigure(settings)

    async def _run_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
            if early_signals.over():
                self._reload_wanted.set()
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload_wanted.set()
                else:
                    self.stopping.set()

    async def _run_reloads(self) -> None:
        """Reload in a task of its own, so that a slow reload does not delay a stop."""
        while True:
            await self._reload_wanted.wait()
            with suppress(RelaydError):
                await self.reload()

    def status_reader(self) -> StatusReader:
        """Return what checks the current state."""
        probes = {
            name: probe for pipeline in self.pipelines for name, probe in pipeline.probes.items()
        }
        facts = [pipeline.facts for pipeline in self.pipelines if "database" in pipeline.probes]
        return StatusReader(self._read_configuration, probes.get("database"), *facts[:1])

    def _read_configuration(self) -> None:
        """Raise an error if the configuration on disk is not valid, or the nodes are not loaded."""
        load_files(self.directory)
        if self.trust.trouble is not None:
            raise NodesError(self.trust.trouble)
        if not self.trust.ready.is_set():
            raise NodesError("the nodes list is still being read")

    async def _run_sampling(self) -> None:
        while True:
            await trio.sleep(PERIOD_S)
            self.rates.sample()
            self.metrics.lag.sample()

    async def _run_canary(self) -> None:
        counted = 0
        while True:
            due = time.monotonic() + CANARY_PERIOD_S
            await trio.sleep(CANARY_PERIOD_S)
            self.metrics.event_loop_lag_seconds.observe(max(0.0, time.monotonic() - due))
            lost = dropped()
            self.metrics.log_dropped.inc(lost - counted)
            counted = lost
