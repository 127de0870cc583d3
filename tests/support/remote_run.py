"""A relayd's remote run over a real socket: real commands, real TLS to sub-relays."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import h11
import trio

from relayd.api.app import Services, make_app
from relayd.config.main_conf import GeneralSettings, RemoteRunSettings, Settings
from relayd.fleet.nodes import Node, Nodes
from relayd.fleet.peers.client import Clients
from relayd.remote_run.runs import RemoteRuns, make_runs
from relayd.telemetry.metrics import Metrics
from tests.support.http import (
    BASE,
    WATCHDOG_S,
    Answer,
    Client,
    Server,
    healthy,
    nothing,
    open_server,
)

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
EVENTS = "Accept: application/x-ndjson\r\n"


def make_nodes(
    neighbours: Iterable[str] = (),
    below: Mapping[str, Iterable[str]] | None = None,
    *,
    me: str = "root",
    hosts: Mapping[str, str] | None = None,
) -> Nodes:
    """Nodes of a policy server.

    Args:
        neighbours: managed by it.
        below: nodes by the relay that manages them; relays that are not neighbours of others are
            ours.
        me: its id.
        hosts: host names that are not `NODE.test`.
    """
    parents = {"root": "root"} | dict.fromkeys(neighbours, me)
    for relay, nodes in (below or {}).items():
        parents.setdefault(relay, me)
        parents.update(dict.fromkeys(nodes, relay))
    names = {node: f"{node}.test" for node in parents} | dict(hosts or {})
    return Nodes(me, {node: Node(node, names[node], parent) for node, parent in parents.items()})


@dataclass
class Lab:
    """A server with remote run, and what it is made of."""

    server: Server
    runs: RemoteRuns
    metrics: Metrics
    scope: trio.CancelScope
    stopped: trio.Event

    def waiting(self) -> int:
        """Return how many runs wait for a command; those of a lane count as one."""
        return self.runs._resources.commands.statistics().tasks_waiting

    async def stop(self) -> None:
        """End all runs, as the end of the service does."""
        self.scope.cancel()
        await self.stopped.wait()

    async def post(
        self, target: str, headers: str = "", **fields: str | bool | Iterable[str]
    ) -> Answer:
        """Return a whole request and its answer."""
        async with self.begun(target, headers, **fields) as client:
            return await client.answer("POST")

    async def events(self, target: str, **fields: str | bool | Iterable[str]) -> "Events":
        """Request events and return them."""
        answer = await self.post(target, EVENTS, **fields)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        return Events([json.loads(line) for line in answer.body.splitlines()])

    @asynccontextmanager
    async def begun(
        self, target: str, headers: str = "", **fields: str | bool | Iterable[str]
    ) -> AsyncIterator[Client]:
        """Yield a request that was sent, its answer still to be read."""
        body = form(**fields)
        async with self.server.client() as client:
            head = f"POST {BASE}/remote-run/{target} HTTP/1.1\r\nHost: relay\r\n{FORM}{headers}"
            await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            yield client


class Events:
    """The events of one run."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events

    @property
    def verdicts(self) -> dict[str, str]:
        """Node → verdict; there is one for each node that was queued."""
        verdicts = [event for event in self.events if event["event"] in VERDICTS]
        found = {event["node"]: event["event"] for event in verdicts}
        assert len(found) == len(verdicts)
        assert set(found) == set(self.nodes("queued"))
        return found

    def nodes(self, kind: str) -> list[str]:
        """Nodes of all events of a kind, in order."""
        return [event["node"] for event in self.events if event["event"] == kind]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def output(self) -> list[str]:
        """All lines of output, in order."""
        return [event["output"] for event in self.of("output")]


VERDICTS = {"exit", "unreachable", "hop_error"}


def form(**fields: str | bool | Iterable[str]) -> bytes:
    """Parameters as a client sends them."""
    return urlencode({name: text(value) for name, value in fields.items()}).encode()


def text(value: str | bool | Iterable[str]) -> str:
    """Return a parameter's value."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else ",".join(value)


class Following:
    """Reads an answer piece by piece."""

    def __init__(self, client: Client) -> None:
        self._stream = client.stream
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        self._http.send(h11.EndOfMessage())
        self.body = b""
        self.size = 0
        self.complete = False

    async def until(self, marker: bytes) -> None:
        """Read until the body has `marker`, or ends."""
        while marker not in self.body and await self.more():
            pass

    async def to_the_end(self) -> int:
        """Read and forgets; return how much the body had."""
        while await self.more():
            self.body = b""
        return self.size

    async def head(self) -> int:
        """Read the head; the status."""
        event = await self._next()
        assert isinstance(event, h11.Response)
        return event.status_code

    async def more(self) -> bool:
        """Read a piece; False at the end."""
        event = await self._next()
        if isinstance(event, h11.Data):
            self.body += bytes(event.data)
            self.size += len(event.data)
        self.complete = isinstance(event, h11.EndOfMessage)
        return isinstance(event, h11.Data | h11.Response)

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(65536)))
        return event


def make_lab_runs(
    command: Path,
    nodes: Nodes | Callable[[], Nodes] | None = None,
    clients: Clients | None = None,
    metrics: Metrics | None = None,
    *,
    https_port: int = 443,
    timeout: float = 60.0,
    max_commands: int = 64,
) -> RemoteRuns:
    """Return what takes runs on, as the service makes it."""
    table = RemoteRunSettings(
        command=str(command), use_sudo=False, timeout=timeout, max_commands=max_commands
    )
    settings = Settings(general=GeneralSettings(https_port=https_port), remote_run=table)
    known = nodes or make_nodes()
    current = known if callable(known) else lambda: known
    return make_runs(settings, clients or Clients(), current, metrics or Metrics())


@asynccontextmanager
async def open_lab(
    command: Path,
    nodes: Nodes | Callable[[], Nodes],
    *,
    pins: Mapping[str, tuple[bytes, ...]] | None = None,
    https_port: int = 443,
    timeout: float = 60.0,
    max_commands: int = 64,
    known: Callable[[], Awaitable[object]] | None = None,
    watchdog: float = WATCHDOG_S,
) -> AsyncIterator[Lab]:
    """Serve the API with remote run until the block ends."""
    metrics = Metrics()
    clients = Clients()
    clients.update(pins or {})
    runs = make_lab_runs(
        command,
        nodes,
        clients,
        metrics,
        https_port=https_port,
        timeout=timeout,
        max_commands=max_commands,
    )
    if known is not None:
        runs.known = known
    app = make_app(Services(healthy, nothing, metrics, "1.2.3", runs))
    scope, stopped = trio.CancelScope(), trio.Event()

    async def run() -> None:
        with scope:
            await runs.run()
        stopped.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with open_server(app, watchdog=watchdog) as server:
            yield Lab(server, runs, metrics, scope, stopped)
        nursery.cancel_scope.cancel()
        await clients.aclose()
