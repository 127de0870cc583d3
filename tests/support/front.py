"""The web front on a real socket with TLS, and a client of it that sees raw bytes."""

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from relayd.config.main_conf import Listen
from tests.support.http import Client
from tests.support.ports import free_port
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.web_front.server import WebServer, rudder_uploads, run_web_server

PASSWORD = "c0rrect horse"
DEFAULT_PASSWORD = "rudder"
NOBODY = Listen(host="127.0.0.1", port=1)
PLACES = ("reports/incoming", "inventories/incoming", "inventories/accepted-nodes-updates")


def make_front(root: Path, api: Listen = NOBODY, node: SigningNode | None = None) -> WebServer:
    """Return a front of a spool below `root`, whose directories are made."""
    for place in PLACES:
        (root / place).mkdir(parents=True, exist_ok=True)
    certificate, key = (node or make_key_and_cert("front")).write(root)
    return WebServer(
        listen=Listen(host="127.0.0.1", port=free_port()),
        api=api,
        certificate=certificate,
        key=key,
        uploads=rudder_uploads(root / "reports", root / "inventories", PASSWORD, DEFAULT_PASSWORD),
    )


@asynccontextmanager
async def open_front(front: WebServer) -> AsyncIterator[None]:
    """Run it until the block ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run_web_server, front), name="front")
        yield
        nursery.cancel_scope.cancel()


def basic(password: str, user: str = "rudder") -> str:
    """Return the header line of basic authentication (RFC 7617)."""
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}\r\n"


async def put(front: WebServer, path: str, data: bytes, password: str) -> int:
    """Return an agent's upload; the status."""
    async with dial_front(front) as client:
        answer = await client.ask("PUT", path, data, basic(password))
    return answer.status


def client_context(front: WebServer) -> ssl.SSLContext:
    """Return what trusts this front's certificate, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(front.certificate)
    return context


@asynccontextmanager
async def dial_front(
    front: WebServer, context: ssl.SSLContext | None = None
) -> AsyncIterator[Client]:
    """Yield a new connection."""
    stream = await trio.open_ssl_over_tcp_stream(
        front.listen.host,
        front.listen.port,
        ssl_context=context or client_context(front),
        https_compatible=True,
    )
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)
