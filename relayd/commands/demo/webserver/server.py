"""The web server in front of one relayd: takes uploads, and lets requests through to its API.

What a Rudder server has Apache for, as much of it as a fleet on one machine needs:

* `PUT /reports/NAME`, `/inventories/NAME`, `/inventory-updates/NAME`, with basic authentication,
  become files of the spool;
* `/rudder/relay-api/…` and `/relay-api/shared-files/…` are answered by relayd, as it answers,
  without waiting for the end;
* nothing else is there: relayd's own state and metrics are for its own machine.
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
from relayd.commands.demo.webserver.files import Scratch, read_name, status_of
from relayd.commands.demo.webserver.proxy import pass_on
from relayd.commands.demo.webserver.requests import Exchange
from relayd.config.main_conf import Listen
from relayd.system.threads import in_thread

USER: Final = "rudder"
MAX_BODY: Final = 1024 * 1024 * 1024

_ROOMS: Final = frozenset({b"remote-run", b"shared-files", b"shared-folder"})
_API: Final = b"/rudder/relay-api/"
_SHARED_FILES: Final = b"/relay-api/shared-files/"


@dataclass(frozen=True, slots=True)
class UploadDirectory:
    """Where the files of one path go.

    Attributes:
        directory: the spool directory.
        password: what `rudder` has to say for it.
    """

    directory: Path
    password: str


@dataclass(frozen=True, slots=True)
class WebServer:
    """One web server.

    Attributes:
        listen: address of its own.
        api: where relayd listens.
        certificate: PEM file of its certificate.
        key: PEM file of the private key.
        uploads: by the first segment of the path, as `reports`.
        max_body: bytes of one upload.
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
    """Return the three paths of a Rudder server.

    Args:
        reports: directory that holds the run logs' `incoming`.
        inventories: directory that holds `incoming` and `accepted-nodes-updates`.
        password: of nodes that are known.
        default_password: of nodes that are new.
    """
    return {
        "reports": UploadDirectory(reports / "incoming", password),
        "inventories": UploadDirectory(inventories / "incoming", default_password),
        "inventory-updates": UploadDirectory(inventories / "accepted-nodes-updates", password),
    }


async def run_web_server(
    front: WebServer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; started when clients can connect.

    Raises:
        StartError: the address cannot be bound.
        OSError: certificate or key cannot be read (`ssl.SSLError` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(front.certificate, front.key)
    async with open_listeners(front.listen) as listeners:
        await trio.serve_listeners(
            partial(_serve_client, front),
            [trio.SSLListener(tcp, context, https_compatible=True) for tcp in listeners],
            task_status=_Started(task_status),
        )


class _Started(trio.TaskStatus[object]):
    """Tells that the listeners are served, not which they are."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, value: object = None) -> None:
        """Pass it on."""
        self._status.started()


async def _serve_client(front: WebServer, stream: trio.SSLStream[trio.SocketStream]) -> None:
    with suppress(OSError):  # it left before we looked
        peer = str(stream.transport_stream.socket.getpeername()[0])
        await Exchange(stream, peer).run(partial(_answer, front))


async def _answer(front: WebServer, exchange: Exchange, request: h11.Request) -> None:
    path, mark, query = request.target.partition(b"?")
    if any(unquote_to_bytes(part) in (b".", b"..") for part in path.split(b"/")):
        await exchange.answer(400, "such a path is not served")
        return
    target = _api_path(path)
    if target is not None:
        await pass_on(exchange, request, front.api, target + mark + query)
        return
    place, _, name = path[1:].partition(b"/")
    uploads = front.uploads.get(place.decode("latin-1"))
    if uploads is None:
        await exchange.answer(404, "not found")
    elif not _is_allowed(request, uploads.password):
        challenge = (b"WWW-Authenticate", b'Basic realm="WebDAV storage"')
        await exchange.answer(401, "user and password, please", [challenge])
    elif request.method != b"PUT":
        await exchange.answer(405, "only PUT is served here", [(b"Allow", b"PUT")])
    else:
        await _store(front, uploads.directory, exchange, request, name)


def _api_path(path: bytes) -> bytes | None:
    """Return the path of relayd's API that a path of ours stands for; None: it is not of the API."""
    if path.startswith(_SHARED_FILES):
        path = b"/rudder" + path
    rest = path.removeprefix(_API)
    if rest == path or rest.partition(b"/")[0] not in _ROOMS:
        return None
    return f"{BASE}/".encode() + rest


def _is_allowed(request: h11.Request, password: str) -> bool:
    expected = b"Basic " + b64encode(f"{USER}:{password}".encode())
    given = dict(request.headers).get(b"authorization", b"")
    return hmac.compare_digest(bytes(given), expected)


async def _store(
    front: WebServer, directory: Path, exchange: Exchange, request: h11.Request, raw_name: bytes
) -> None:
    name = read_name(raw_name)
    headers = dict(request.headers)
    if name is None or b"content-range" in headers:
        await exchange.answer(400, "such a name, or a part of a file, is not taken")
        return
    if int(headers.get(b"content-length", b"0")) > front.max_body:
        await exchange.answer(413, "too large")
        return
    try:
        status = await _receive(directory, name, exchange, front.max_body)
    except OSError as error:
        status = status_of(error)
    await exchange.answer(status)


async def _receive(directory: Path, name: bytes, exchange: Exchange, limit: int) -> int:
    """Write the body into the file of this name; the status to answer with."""
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
