"""The policy servers of the demo: a root server and, below it, relays.

Relay 1 sits below the root server and relay 2 below relay 1; so do 3 and 4, 5 and 6 … The nodes are
spread over the relays; without relays they belong to the root server.
"""

import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import trio

from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.demo.processes.daemon import Daemon, open_daemon
from relayd.commands.demo.processes.ports import free_port
from relayd.commands.demo.processes.workspace import CERTIFICATES, NODES_LIST, Layout, Workspace
from relayd.commands.demo.webserver.server import UploadDirectory, WebServer, run_web_server
from relayd.config.main_conf import Listen

ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """One policy server.

    Attributes:
        title: what the picture calls it.
        node: what it is in the nodes list; its host name is the address of its web front.
        workspace: its directory.
        port: of its API on 127.0.0.1.
        parent: the policy server above it; None: it is the root server.
        password: what its web front wants to hear from whoever uploads.
    """

    title: str
    node: SimulatedNode
    workspace: Workspace
    port: int
    parent: "PolicyServer | None"
    password: str

    @property
    def above(self) -> list["PolicyServer"]:
        """Those above it, the nearest first."""
        return [] if self.parent is None else [self.parent, *self.parent.above]


def address(number: int) -> str:
    """Loopback address of a policy server's web front: 0 is the root server's."""
    return f"127.0.0.{number + 1}"


def _parent(relay: int) -> int:
    """Number of the policy server above a relay."""
    return relay - 1 if relay % 2 == 0 else 0


class Tree:
    """All policy servers and who reports to which.

    Attributes:
        stations: the root server first, parents before those below them.
    """

    def __init__(
        self, layout: Layout, servers: Sequence[SimulatedNode], nodes: Sequence[SimulatedNode]
    ) -> None:
        """Lays out the tree.

        Args:
            layout: directories for a root server and relays.
            servers: as many machines, the root server first.
            nodes: the managed machines.
        """
        self._https_port = free_port(*(server.hostname for server in servers))
        self._nodes = nodes
        self.stations: list[PolicyServer] = []
        for number, (workspace, node) in enumerate(zip(layout.workspaces, servers, strict=True)):
            title = f"relay {number}" if number else "root server"
            parent = self.stations[_parent(number)] if number else None
            password = secrets.token_urlsafe(12)
            station = PolicyServer(title, node, workspace, free_port(), parent, password)
            self.stations.append(station)
        homes = cycle(self.relays or self.stations)
        self._homes = {node.node_id: next(homes) for node in nodes}

    @property
    def root(self) -> PolicyServer:
        """The root server."""
        return self.stations[0]

    @property
    def relays(self) -> list[PolicyServer]:
        """All but the root server."""
        return self.stations[1:]

    def home(self, node_id: str) -> PolicyServer:
        """Return the policy server of a node; a stranger comes in at the last one."""
        return self._homes.get(node_id, self.stations[-1])

    def spools(self, node_id: str) -> list[Path]:
        """Return where a node's run logs come through: `incoming` of its policy server, then above."""
        home = self.home(node_id)
        return [station.workspace.incoming for station in (home, *home.above)]

    def names(self) -> dict[str, str]:
        """Host name, or title of a policy server, by node id."""
        return {node.node_id: node.hostname for node in self._nodes} | {
            station.node.node_id: station.title for station in self.stations
        }

    def write(self, database: ConnectionInfo) -> None:
        """Write everything that the relayds and their web fronts read."""
        for station in self.stations:
            workspace = station.workspace
            self._write_lists(station)
            workspace.certificate.write_bytes(station.node.certificate_pem())
            workspace.key.touch(mode=0o600)
            workspace.key.write_bytes(station.node.key_pem())
            general = {
                "node_id": station.node.node_id,
                "listen": f"127.0.0.1:{station.port}",
                "https_port": self._https_port,
            }
            if station.parent is None:
                keys = {"url": database.url, "password": database.password}
                workspace.write_configuration(station.title, general, "database", database=keys)
            else:
                keys = {
                    "host": station.parent.node.hostname,
                    "password": station.parent.password,
                    "server_certificate_file": str(station.parent.workspace.certificate),
                }
                workspace.write_configuration(station.title, general, "upstream", upstream=keys)

    def _write_lists(self, station: PolicyServer) -> None:
        """Write nodes list and certificates as Rudder's server generates them."""
        below = [(other.node, other.parent or other) for other in self.stations] + [
            (node, self._homes[node.node_id]) for node in self._nodes
        ]
        known = [
            (node, home)
            for node, home in below
            if station.parent is None or station in (home, *home.above)
        ]
        listed = {node.node_id: node.entry(home.node.node_id) for node, home in known}
        directory = station.workspace.configuration
        (directory / NODES_LIST).write_text(json.dumps(listed, indent=1))
        pems = [node.certificate_pem() for node, _ in known]
        (directory / CERTIFICATES).write_bytes(b"".join(pems))

    def fronts(self) -> list[WebServer]:
        """Return the web fronts; none where no relay needs one."""
        return [self._front(station) for station in self.stations] if self.relays else []

    def _front(self, station: PolicyServer) -> WebServer:
        workspace = station.workspace
        return WebServer(
            listen=Listen(host=station.node.hostname, port=self._https_port),
            api=Listen(host="127.0.0.1", port=station.port),
            certificate=workspace.certificate,
            key=workspace.key,
            uploads={"reports": UploadDirectory(workspace.incoming, station.password)},
        )


@asynccontextmanager
async def open_tree(tree: Tree) -> AsyncIterator[list[Daemon]]:
    """Run relayd and its web front for every policy server until the block ends.

    Yields:
        The daemons, in the order of `Tree.stations`. They are stopped from below.

    Raises:
        StartError: one did not come up.
    """
    async with trio.open_nursery() as nursery:
        for front in tree.fronts():
            await nursery.start(partial(run_web_server, front), name=f"front {front.listen}")
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    open_daemon(
                        station.workspace.configuration, station.port, station.workspace.log
                    )
                )
                for station in tree.stations
            ]
        nursery.cancel_scope.cancel("all stopped")
