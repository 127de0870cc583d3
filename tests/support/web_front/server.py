"""The web server in front of one relayd: stores uploads and forwards requests to its API.

It stands for the Apache of a Rudder server, and takes uploads whatever state relayd is in:

* `PUT /reports/NAME`, `/inventories/NAME` and `/inventory-updates/NAME`, with basic authentication,
  become files in the spool;
* `/rudder/relay-api/…` and `/relay-api/shared-files/…` are forwarded to relayd, and its answers
  are streamed;
* everything else is 404: relayd's status and metrics are only for its own machine.
"""

import hmac
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import h11
import trio

from relayd.api.app import BASE
from relayd.api.server.listeners import open_listeners
from relayd.config.main_conf import Listen
from relayd.fleet.peers.urls import PUBLIC_API
from relayd.spool.layout import INCOMING, UPDATES
from relayd.system.threads import in_thread
from tests.support.web_front.files import Scratch, read_name, status_of
from tests.support.web_front.proxy import forward
from tests.support.web_front.requests import Exchange

USER: Final = "rudder"
MAX_BODY: Final = 1024 * 1024 * 1024

_ENDPOINTS: Final = frozenset({b"remote-run", b"shared-files", b"shared-folder"})
_API: Final = f"{PUBLIC_API}/".encode()
_SHARED_FILES: Final = b"/relay-api/shared-files/"


@dataclass(frozen=True, slots=True)
class UploadDirectory:
    """The destination of uploads to one path.

    Attributes:
        directory: the spool directory.
        password: password of the user `rudder` for it.
    """

    directory: Path
    password: str


@dataclass(frozen=True, slots=True)
class WebServer:
    """Settings of a web server.

    Attributes:
        listen: its own address.
        api: address on which relayd listens.
        certificate: PEM file of its certificate.
        key: PEM file of the private key.
        uploads: upload directories by the first segment of the path, for example `reports`.
        max_body: largest size of an upload in bytes.
    """

    listen: Listen
    api: Listen
    certificate: Path
    key: Path
    uploads: Mapping[str, UploadDirectory]
    max_body: int = MAX_BODY


def rudder_uploads(
    reports: Path, inventories: Path, password: str, default_password: str
) -> dict[str, UploadDirectory]:
    """Return the upload directories of a Rudder server.

    Args:
        reports: directory that contains the run logs' `incoming`.
        inventories: directory that contains `incoming` and `accepted-nodes-updates`.
        password: password of accepted nodes.
        default_password: password of new nodes.
    """
    return {
        "reports": UploadDirectory(reports / INCOMING, password),
        "inventories": UploadDirectory(inventories / INCOMING, default_password),
        "inventory-updates": UploadDirectory(inventories / UPDATES, password),
    }


async def run_web_server(
    web: WebServer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; `started` is called when clients can connect.

    Raises:
        StartError: the address cannot be bound.
        OSError: certificate or key cannot be read (includes `ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(web.certificate, web.key)
    async with open_listeners(web.listen) as listeners:
        await trio.serve_listeners(
            partial(_serve_client, web),
            [trio.SSLListener(tcp, context, https_compatible=True) for tcp in listeners],
            task_status=_Started(task_status),
        )


class _Started(trio.TaskStatus[object]):
    """Calls `started` without the listeners that Trio passes."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, value: object = None) -> None:
        """Call the caller's `started`."""
        self._status.started()


async def _serve_client(web: WebServer, stream: trio.SSLStream[trio.SocketStream]) -> None:
    with suppress(OSError):  # the client is gone already
        peer = str(stream.transport_stream.socket.getpeername()[0])
        await Exchange(stream, peer).run(partial(_answer, web))


async def _answer(web: WebServer, exchange: Exchange, request: h11.Request) -> None:
    path, mark, query = request.target.partition(b"?")
    if any(unquote_to_bytes(part) in (b".", b"..") for part in path.split(b"/")):
        await exchange.answer(400, "path with dot segments")
        return
    target = _api_path(path)
    if target is not None:
        await forward(exchange, request, web.api, target + mark + query)
        return
    segment, _, name = path[1:].partition(b"/")
    uploads = web.uploads.get(segment.decode("latin-1"))
    if uploads is None:
        await exchange.answer(404, "not found")
    elif not _is_allowed(request, uploads.password):
        challenge = (b"WWW-Authenticate", b'Basic realm="WebDAV storage"')
        await exchange.answer(401, "authentication required", [challenge])
    elif request.method != b"PUT":
        await exchange.answer(405, "only PUT is allowed", [(b"Allow", b"PUT")])
    else:
        await _store(web, uploads.directory, exchange, request, name)


def _api_path(path: bytes) -> bytes | None:
    """Return the path in relayd's API for a path here; None if it is not part of the API."""
    if path.startswith(_SHARED_FILES):
        path = b"/rudder" + path
    rest = path.removeprefix(_API)
    if rest == path or rest.partition(b"/")[0] not in _ENDPOINTS:
        return None
    return f"{BASE}/".encode() + rest


def _is_allowed(request: h11.Request, password: str) -> bool:
    expected = b"Basic " + b64encode(f"{USER}:{password}".encode())
    given = dict(request.headers).get(b"authorization", b"")
    return hmac.compare_digest(bytes(given), expected)


async def _store(
    web: WebServer, directory: Path, exchange: Exchange, request: h11.Request, raw_name: bytes
) -> None:
    name = read_name(raw_name)
    headers = dict(request.headers)
    if name is None or b"content-range" in headers:
        await exchange.answer(400, "invalid file name or partial upload")
        return
    if int(headers.get(b"content-length", b"0")) > web.max_body:
        await exchange.answer(413, "too large")
        return
    try:
        status = await _receive(directory, name, exchange, web.max_body)
    except OSError as error:
        status = status_of(error)
    await exchange.answer(status)


async def _receive(directory: Path, name: bytes, exchange: Exchange, limit: int) -> int:
    """Write the body to the file of this name and return the HTTP status."""
    scratch = await in_thread(Scratch, directory)
    try:
        while data := await exchange.read():
            limit -= len(data)
            if limit < 0:
                return 413
            await in_thread(scratch.append, data)
        return 204 if await in_thread(scratch.commit, name) else 201
    finally:
        scratch.discard()
