"""The application of the front door: its rules before everything else."""

from typing import cast
from urllib.parse import unquote

from hypercorn.typing import HTTPScope, Scope

from relayd.api.door.accounts import Accounts, BusyError
from relayd.api.door.answering import Answer, header_of, send_answer
from relayd.api.door.connection import CERTIFICATE
from relayd.api.door.networks import AllowedNetworks, client_of
from relayd.api.door.rules import STATIC, UPLOADS, Client, Place, Route, find_route, is_allowed
from relayd.api.door.tls import Trusted
from relayd.api.door.uploads import RETRY_AFTER_S, Target, Uploads
from relayd.api.server.access import Send
from relayd.api.server.connection import App, Receive
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import DoorOutcome, Metrics

log = get_logger("api")

_CHALLENGE = (b"www-authenticate", b'Basic realm="relayd"')


class DoorApp:
    """Applies the rules, receives uploads, and passes on everything else that is allowed.

    Attributes:
        trusted: whose certificates are known; replaced by its owner.
    """

    def __init__(
        self,
        trusted: Trusted,
        networks: AllowedNetworks,
        policy_servers: AllowedNetworks,
        accounts: dict[Place, Accounts],
        targets: dict[Place, Target],
        uploads: Uploads,
        api: App,
        static: App,
        metrics: Metrics,
    ) -> None:
        self.trusted = trusted
        self._networks = networks
        self._policy_servers = policy_servers
        self._accounts = accounts
        self._targets = targets
        self._uploads = uploads
        self._api = api
        self._static = static
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        assert scope["type"] == "http"
        answer = await self._handle(scope, receive, send)
        if answer is not None:
            await send_answer(send, answer, scope["method"])

    async def _handle(self, scope: HTTPScope, receive: Receive, send: Send) -> Answer | None:
        """Return the answer, None if another application has given it."""
        route = find_route(scope["raw_path"])
        address = (scope["client"] or ("",))[0]
        client = await self._client(scope, address)
        if route is None or not is_allowed(route, client):
            log.debug("request denied", client=address)
            return Answer(403, "forbidden")
        if route.place in UPLOADS:
            return await self._upload(scope, receive, route, client, client_of(address))
        app = self._static if route.place in STATIC else self._api
        path = unquote(route.path.decode("ascii"))
        await app(cast("Scope", {**scope, "raw_path": route.path, "path": path}), receive, send)
        return None

    async def _client(self, scope: HTTPScope, address: str) -> Client:
        digest = cast("dict[str, bytes | None]", scope["state"])[CERTIFICATE]
        return Client(
            None if digest is None else self.trusted.nodes.get(digest),
            await self._networks.allow(address),
            await self._policy_servers.allow(address),
        )

    async def _upload(
        self, scope: HTTPScope, receive: Receive, route: Route, client: Client, source: str
    ) -> Answer:
        if client.node is None:
            try:
                admitted = await self._has_password(scope, route.place, source)
            except BusyError:
                self._metrics.uploads.labels(DoorOutcome.BUSY.value).inc()
                retry = (b"retry-after", b"%d" % RETRY_AFTER_S)
                return Answer(503, "too many passwords to check", (retry,))
            if not admitted:
                self._metrics.uploads.labels(DoorOutcome.UNAUTHORIZED.value).inc()
                return Answer(401, "unauthorized", (_CHALLENGE,))
        return await self._uploads.take(
            scope, receive, self._targets[route.place], route.name, source
        )

    async def _has_password(self, scope: HTTPScope, place: Place, source: str) -> bool:
        header = header_of(scope, b"authorization")
        return header is not None and await self._accounts[place].admit(header, source)
