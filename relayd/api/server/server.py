"""The HTTP server: accepts clients, within limits, until it stops.

Hypercorn's HTTP/1 protocol code serves a Quart-Trio app. The code around it (accepting
connections, deadlines, the stop) is relayd's own; `relayd.api.server.connection` gives the reasons.
Both use private names of the libraries, so their versions are checked at start.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart import Quart

from relayd.api.server.access import log_refused
from relayd.api.server.connection import App, Connection, Serving, Slots
from relayd.api.server.limits import Limits
from relayd.api.server.listeners import PatientListener, open_listeners, url_of
from relayd.config.main_conf import Listen
from relayd.errors import StartError
from relayd.telemetry.logs import get_logger

log = get_logger("api")

#: The releases whose private names are used here.
VERSIONS: Final = {
    "h11": "0.16.0",
    "hypercorn": "0.18.0",
    "quart": "0.22.0",
    "quart-trio": "0.12.0",
}

_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_DEFAULTS: Final = Limits()


def check_versions(expected: Mapping[str, str] = VERSIONS) -> None:
    """Check that the installed libraries are the supported releases.

    Raises:
        StartError: one is not; the text gives its name, the release found and the expected one.
    """
    for name, wanted in expected.items():
        if not _has_release(name, wanted):
            # Loading this, with the parser of mail that it uses, would delay every start.
            from importlib.metadata import version

            found = version(name)
            if found != wanted:
                raise StartError(f"{name} {found} is installed, but only {wanted} is supported")


def _has_release(name: str, release: str) -> bool:
    """Return whether the directory that describes this release is next to a loaded library."""
    package = name.replace("-", "_")
    location = Path(sys.modules[package].__file__ or "").parents[1]
    return Path(f"{location}/{package}-{release}.dist-info/METADATA").is_file()


async def run_server(
    app: Quart,
    listen: Listen,
    *,
    stop: trio.Event,
    grace: float = 10.0,
    limits: Limits = _DEFAULTS,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on every address of `listen`; `started` gives the bound URLs.

    Ends after `stop` is set: no more clients are accepted, connections without a request are
    closed at once, answers in progress may continue for `grace` seconds; it returns at most
    `limits.stop_write_s` later. A Unix socket is removed then.

    Raises:
        StartError: a library has an unsupported version, or the address cannot be bound.
    """
    check_versions()
    async with open_listeners(listen) as listeners:
        await app.startup()
        await _serve(app, listeners, stop, grace, limits, task_status)


async def _serve(
    app: Quart,
    listeners: list[trio.SocketListener],
    stop: trio.Event,
    grace: float,
    limits: Limits,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    serving, slots = make_serving(cast("App", app), limits), Slots(limits.connections)
    clients = Clients(
        serving,
        slots,
        lambda stream: Connection(serving, slots, stream, stream.socket),
        _BUSY,
    )
    await serve_clients(clients, listeners, stop, grace, task_status)


@dataclass(frozen=True, slots=True)
class Clients:
    """How the clients of one server are served.

    Attributes:
        serving: shared by their connections.
        slots: bound their number.
        connect: makes the connection of an accepted client.
        busy: what a client without a slot gets before its connection is closed.
        fresh_s: seconds in which a client without any request yet may begin one at a stop.
    """

    serving: Serving
    slots: Slots
    connect: Callable[[trio.SocketStream], Connection]
    busy: bytes = b""
    fresh_s: float = 0.0


def make_serving(app: App, limits: Limits) -> Serving:
    """Return what the connections of a server share."""
    return Serving(app, _hypercorn_config(), WorkerContext(max_requests=None), limits)


async def serve_clients(
    clients: Clients,
    listeners: list[trio.SocketListener],
    stop: trio.Event,
    grace: float,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Accept clients and serve them until `stop` is set; see `run_server`."""
    handler = partial(_serve_client, clients)
    async with trio.open_nursery() as handling:
        async with trio.open_nursery() as accepting:
            patient = [PatientListener(listener) for listener in listeners]
            serve = partial(trio.serve_listeners, handler, patient, handler_nursery=handling)
            await accepting.start(serve)
            task_status.started([url_of(listener) for listener in listeners])
            try:
                await stop.wait()
            finally:
                clients.slots.hurry()
            accepting.cancel_scope.cancel()
        await clients.serving.context.terminated.set()
        clients.slots.end_waiting(clients.fresh_s)
        handling.cancel_scope.deadline = trio.current_time() + grace


async def _serve_client(clients: Clients, stream: trio.SocketStream) -> None:
    """Serve one accepted client; Trio closes the stream afterwards."""
    serving, slots = clients.serving, clients.slots
    if serving.context.terminated.is_set() and not clients.fresh_s:
        return
    connection = clients.connect(stream)
    if serving.context.terminated.is_set():
        connection.limit(clients.fresh_s)
    if not slots.take(connection):
        log.warning("too many requests at once; refused with 503", limit=serving.limits.connections)
        log_refused(503, None)
        with trio.move_on_after(serving.limits.stop_write_s), suppress(trio.BrokenResourceError):
            await stream.send_all(clients.busy)
        return
    try:
        await connection.run()
    finally:
        slots.free(connection)


class _Silent:
    """In place of Hypercorn's log: what there is to say is logged by `relayd.api.server`."""

    def __init__(self, _config: Config) -> None:
        pass

    async def access(self, *_args: object) -> None:
        """Log nothing of a request."""


def _hypercorn_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.logger_class = cast(
        "Any", _Silent
    )  # Hypercorn's own loads 0.5 MB with the first request
    config.include_server_header = False
    config.max_app_queue_size = 1  # pieces of a body, in addition to those that it buffers itself
    return config
