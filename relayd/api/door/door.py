"""The front door as a whole: its parts, its start, and what a reload renews."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from relayd.api.door.accounts import CHECKS, Accounts
from relayd.api.door.app import DoorApp
from relayd.api.door.connection import DoorConnection
from relayd.api.door.networks import AllowedNetworks, client_of
from relayd.api.door.rules import Place
from relayd.api.door.static import make_static_app
from relayd.api.door.tls import KeyFiles, Trusted, build_context, build_trusted
from relayd.api.door.uploads import Target, Uploads, remove_leftovers
from relayd.api.fair_limiter import FairLimiter
from relayd.api.server.connection import App, Slots
from relayd.api.server.limits import Limits
from relayd.api.server.listeners import open_listeners
from relayd.api.server.passed import PassedSocket, open_passed
from relayd.api.server.server import Clients, make_serving, serve_clients
from relayd.config.main_conf import Listen, Settings
from relayd.errors import StartError
from relayd.fleet.current_nodes import CurrentNodes
from relayd.spool.layout import ensure_directories, inventory_spool, run_log_spool
from relayd.system.threads import in_thread
from relayd.system.wake import Wake
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("api")

#: Bytes of one upload, as in the web servers' configurations.
MAX_RUN_LOG: Final = 64 * 1024 * 1024
MAX_INVENTORY: Final = 256 * 1024 * 1024

#: At a stop, who has connected already may begin a request for so many seconds: most have sent it.
_FRESH_S: Final = 2.0


class Door:
    """The HTTPS server for agents and relays.

    Args:
        settings: of relayd; `server.listen` is not empty.
        trust: the current nodes.
        metrics: of this service.
        api: the HTTP API.
        sockets: from the service manager; without any, relayd opens its own.
    """

    def __init__(
        self,
        settings: Settings,
        trust: CurrentNodes,
        metrics: Metrics,
        api: App,
        sockets: Sequence[PassedSocket] = (),
    ) -> None:
        self._settings = settings.server
        self._certificates = settings.general.nodes_certs_file
        self._trust = trust
        self._files = KeyFiles(
            self._settings.certificate_file, self._settings.key_file, self._settings.http2
        )
        self._networks = AllowedNetworks(self._settings.networks, self._settings.networks_file)
        self._policy_servers = AllowedNetworks(
            self._settings.policy_servers, self._settings.policy_servers_file
        )
        checks = FairLimiter(CHECKS)
        known = Accounts(self._settings.passwords_file, checks)
        initial = Accounts(self._settings.initial_passwords_file, checks)
        self._accounts = {Place.REPORTS: known, Place.UPDATES: known, Place.INVENTORIES: initial}
        self._targets = _targets(settings)
        self._metrics = metrics
        self._api = api
        self._sockets = sockets
        self._node_id = trust.nodes.my_id
        self._changed = Wake()
        self._building = trio.Lock()
        self._app: DoorApp | None = None

    async def check(self) -> None:
        """Check that the identity of this server can be used, as it is on disk now.

        Raises:
            StartError: it cannot.
        """
        await in_thread(build_context, self._files, abandon_on_cancel=True)

    def wake(self) -> None:
        """Trust the nodes that are known now, as soon as possible."""
        self._changed.set()

    async def renew(self) -> None:
        """Use the files as they are now for new connections; existing ones are not disturbed.

        Raises:
            StartError: a file cannot be used; nothing was changed.
        """
        if self._app is None:
            return  # it reads all files when it starts
        self._app.trusted = await self._build()
        await self._look()

    async def _look(self) -> None:
        for networks in (self._networks, self._policy_servers):
            await networks.look(now=True)
        for accounts in set(self._accounts.values()):
            await accounts.look(now=True)

    async def _build(self) -> Trusted:
        async with self._building:
            return await in_thread(
                build_trusted,
                self._files,
                self._certificates,
                self._trust.nodes,
                None if self._app is None else self._app.trusted,
                abandon_on_cancel=True,
            )

    async def run(
        self,
        stop: trio.Event,
        grace: float,
        *,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on all addresses; `started` gives the URLs. Ends as `run_server` does.

        Raises:
            StartError: a file or directory cannot be used, or an address cannot be bound.
        """
        self._app = await self._make_app()
        directories = [target.directory for target in self._targets.values()]
        await in_thread(ensure_directories, *directories)
        async with self._open() as listeners:
            await in_thread(remove_leftovers, directories)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_renewals, name="door renewals")
                await self._serve(self._app, listeners, stop, grace, task_status)
                nursery.cancel_scope.cancel()

    def _open(self) -> AbstractAsyncContextManager[list[trio.SocketListener]]:
        if self._sockets:
            return open_passed(self._sockets, self._settings.listen)
        return _open_all(self._settings.listen)

    async def _make_app(self) -> DoorApp:
        settings = self._settings
        uploads = Uploads(
            self._trust, self._metrics, settings.min_free_space, refuse_early=settings.refuse_early
        )
        await self._look()
        static = make_static_app(settings.share_directory, self._node_id)
        await static.startup()
        return DoorApp(
            await self._build(),
            self._networks,
            self._policy_servers,
            self._accounts,
            self._targets,
            uploads,
            self._api,
            static,
            self._metrics,
        )

    async def _serve(
        self,
        app: DoorApp,
        listeners: list[trio.SocketListener],
        stop: trio.Event,
        grace: float,
        task_status: trio.TaskStatus[list[str]],
    ) -> None:
        limits = Limits(connections=self._settings.max_connections)
        serving = make_serving(app, limits)
        slots = Slots(limits.connections, self._settings.max_connections_per_address)

        def connect(stream: trio.SocketStream) -> DoorConnection:
            client = client_of(_address(stream))
            return DoorConnection(serving, slots, stream, app.trusted, client)

        clients = Clients(serving, slots, connect, fresh_s=_FRESH_S)
        await serve_clients(clients, listeners, stop, grace, task_status)

    async def _run_renewals(self) -> None:
        """Renew whenever the nodes have changed."""
        while True:
            await self._changed.wait()
            try:
                await self.renew()
            except StartError as error:
                log.error("certificates cannot be renewed", detail=str(error))


def _address(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""  # it has disconnected already


def _targets(settings: Settings) -> dict[Place, Target]:
    run_logs = run_log_spool(settings.processing.reporting.directory).watched[0]
    new, updates = inventory_spool(settings.processing.inventory.directory).watched
    return {
        Place.REPORTS: Target(run_logs, MAX_RUN_LOG, run_logs=True),
        Place.INVENTORIES: Target(new, MAX_INVENTORY),
        Place.UPDATES: Target(updates, MAX_INVENTORY),
    }


@asynccontextmanager
async def _open_all(addresses: Sequence[Listen]) -> AsyncIterator[list[trio.SocketListener]]:
    async with AsyncExitStack() as stack:
        listeners: list[trio.SocketListener] = []
        for listen in addresses:
            listeners += await stack.enter_async_context(open_listeners(listen, both=False))
        yield listeners
