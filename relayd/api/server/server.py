"""The HTTP server: accepts clients, within limits, until it stops.

Hypercorn's HTTP/1 protocol code serves a Quart-Trio app. The code around it (accepting
connections, deadlines, the stop) is relayd's own; `relayd.api.server.connection` gives the reasons.
Both use private names of the libraries, so their versions are checked at start.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart import Quart

from relayd.api.server.access import log_refused
from relayd.api.server.connection import Connection, Serving, Slots
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
        found = version(name)
        if found != wanted:
            raise StartError(f"{name} {found} is installed, but only {wanted} is supported")


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
    serving = Serving(app, _hypercorn_config(), WorkerContext(max_requests=None), limits)
    slots = Slots(limits.connections)
    handler = partial(_serve_client, serving, slots)
    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as accepting:
            patient = [PatientListener(listener) for listener in listeners]
            serve = partial(trio.serve_listeners, handler, patient, handler_nursery=clients)
            await accepting.start(serve)
            task_status.started([url_of(listener) for listener in listeners])
            try:
                await stop.wait()
            finally:
                slots.hurry()
            accepting.cancel_scope.cancel()
        await serving.context.terminated.set()
        slots.cut_waiting()
        clients.cancel_scope.deadline = trio.current_time() + grace


async def _serve_client(serving: Serving, slots: Slots, stream: trio.SocketStream) -> None:
    """Serve one accepted client; Trio closes the stream afterwards."""
    if serving.context.terminated.is_set():
        return
    connection = Connection(serving, slots, stream)
    if not slots.take(connection):
        log.warning("too many requests at once; refused with 503", limit=serving.limits.connections)
        log_refused(503, None)
        with trio.move_on_after(serving.limits.stop_write_s), suppress(trio.BrokenResourceError):
            await stream.send_all(_BUSY)
        return
    try:
        await connection.run()
    finally:
        slots.free(connection)


def _hypercorn_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.max_app_queue_size = 1  # pieces of a body, in addition to those that it buffers itself
    return config
