"""A web server in front of a relayd: relayd's own, run in this process as Apache would be.

It takes uploads whatever state the relayd behind it is in, and passes on requests for its API.
"""

import hashlib
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import httpcore2
import trio
from hypercorn.typing import HTTPScope, Scope

from relayd.api.answers import BrokenOffError
from relayd.api.door.answering import Answer, send_answer
from relayd.api.door.door import Door
from relayd.api.server.access import Send
from relayd.api.server.connection import Receive
from relayd.config.main_conf import (
    GeneralSettings,
    InventorySettings,
    Listen,
    ProcessingSettings,
    ReportingSettings,
    ServerSettings,
    Settings,
)
from relayd.fleet.current_nodes import CurrentNodes
from relayd.telemetry.metrics import Metrics
from tests.support.http import Client
from tests.support.ports import free_port
from tests.support.signing import SigningNode, make_key_and_cert

PASSWORD = "c0rrect horse"
DEFAULT_PASSWORD = "rudder"
NOBODY = Listen(host="127.0.0.1", port=1)
PLACES = ("reports/incoming", "inventories/incoming", "inventories/accepted-nodes-updates")

_LOCAL: Final = (ip_network("127.0.0.0/8"),)
#: Headers of a single connection (RFC 9110, 7.6.1), and Expect, which was answered already.
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)


@dataclass(frozen=True)
class Front:
    """A web server.

    Attributes:
        root: directory of the spools, and of its own files.
        listen: its address.
        api: of the relayd behind it.
        certificate: its own.
        key: of that.
        password: of the user `rudder`, for everything but inventories of new nodes.
        default_password: for these.
    """

    root: Path
    listen: Listen
    api: Listen
    certificate: Path
    key: Path
    password: str = PASSWORD
    default_password: str = DEFAULT_PASSWORD

    def settings(self) -> Settings:
        """Write its files; return its settings."""
        own = self.root / "front"
        own.mkdir(exist_ok=True)
        (own / "networks").touch()
        (own / "known").write_text(_account(self.password))
        (own / "initial").write_text(_account(self.default_password))
        return Settings(
            general=GeneralSettings(
                node_id="root", nodes_list_file=own / "none", nodes_certs_file=own / "none"
            ),
            processing=ProcessingSettings(
                reporting=ReportingSettings(directory=self.root / "reports"),
                inventory=InventorySettings(directory=self.root / "inventories"),
            ),
            server=ServerSettings(
                listen=(self.listen,),
                certificate_file=self.certificate,
                key_file=self.key,
                passwords_file=own / "known",
                initial_passwords_file=own / "initial",
                networks=_LOCAL,
                networks_file=own / "networks",
                policy_servers=_LOCAL,
                policy_servers_file=own / "networks",
                share_directory=own,
            ),
        )

    async def pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with what the relayd behind answers."""
        assert scope["type"] == "http"
        async with trio.open_nursery() as nursery:
            try:
                async with aclosing(_body(receive, nursery)) as body:
                    await self._ask(scope, body, send)
            except httpcore2.ConnectError:
                await send_answer(send, Answer(503), scope["method"])
            except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
                raise BrokenOffError(str(error)) from error
            nursery.cancel_scope.cancel()

    async def _ask(self, scope: HTTPScope, body: AsyncIterator[bytes], send: Send) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        url = httpcore2.URL(
            scheme=b"http",
            host=self.api.host.encode(),
            port=self.api.port,
            target=scope["raw_path"] + query,
        )
        headers = _end_to_end(scope["headers"])
        if b"transfer-encoding" in dict(scope["headers"]):
            headers.append((b"transfer-encoding", b"chunked"))
        async with (
            httpcore2.AsyncConnectionPool() as pool,
            pool.stream(scope["method"], url, headers=headers, content=body) as answer,
            aclosing(answer.aiter_stream()) as parts,
        ):
            fields = _end_to_end(answer.headers)
            await send({"type": "http.response.start", "status": answer.status, "headers": fields})
            async for data in parts:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in _HOP]


async def _body(receive: Receive, request: trio.Nursery) -> AsyncGenerator[bytes, None]:
    """Yield the parts of a request body; a client that disconnects ends the request."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            request.cancel_scope.cancel()
            await trio.sleep_forever()
        assert message["type"] == "http.request"
        more = message.get("more_body", False)
        yield message.get("body", b"")
    request.start_soon(_end_when_gone, receive, request.cancel_scope)


async def _end_when_gone(receive: Receive, request: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    request.cancel()


def _account(password: str) -> str:
    # A fast kind: such passwords are not to be kept secret.
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return f"rudder:{{SHA}}{b64encode(digest).decode()}\n"


def make_front(root: Path, api: Listen = NOBODY, node: SigningNode | None = None) -> Front:
    """Return a front of a spool below `root`, whose directories are made."""
    for place in PLACES:
        (root / place).mkdir(parents=True, exist_ok=True)
    certificate, key = (node or make_key_and_cert("front")).write(root)
    return Front(root, Listen(host="127.0.0.1", port=free_port()), api, certificate, key)


@asynccontextmanager
async def open_front(front: Front) -> AsyncIterator[None]:
    """Run it until the block ends."""
    settings, metrics = front.settings(), Metrics()
    general, stop = settings.general, trio.Event()
    trust = CurrentNodes(general.nodes_list_file, general.nodes_certs_file, "root", metrics)
    async with trio.open_nursery() as nursery:
        await nursery.start(Door(settings, trust, metrics, front.pass_on).run, stop, 0.1)
        yield
        nursery.cancel_scope.cancel()


def basic(password: str, user: str = "rudder") -> str:
    """Return the header line of basic authentication (RFC 7617)."""
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}\r\n"


async def put(front: Front, path: str, data: bytes, password: str) -> int:
    """Return an agent's upload; the status."""
    async with dial_front(front) as client:
        answer = await client.ask("PUT", path, data, basic(password))
    return answer.status


@asynccontextmanager
async def dial_front(front: Front) -> AsyncIterator[Client]:
    """Yield a new connection, which trusts this front's certificate and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(front.certificate)
    stream = await trio.open_ssl_over_tcp_stream(
        front.listen.host, front.listen.port, ssl_context=context, https_compatible=True
    )
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)
