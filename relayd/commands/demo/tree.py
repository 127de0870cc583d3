"""The policy servers of the demo: a root server and the relays below it.

Relay 1 reports to the root server and relay 2 to relay 1; likewise 3 and 4, 5 and 6, and so on. The
nodes are spread over the relays; without relays they report to the root server.
"""

import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

from relayd.commands.demo.fleet.delivery import Destination, make_destination
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.commands.demo.fleet.upload import SimulatedUpload
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.demo.processes.daemon import Daemon, open_daemon
from relayd.commands.demo.processes.ports import free_port
from relayd.commands.demo.processes.workspace import CERTIFICATES, NODES_LIST, Layout, Workspace
from relayd.commands.demo.tools import write_environment

ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """One policy server.

    Attributes:
        title: its name on the screen.
        node: its node in the nodes list; its host name is its address for agents and relays.
        workspace: its directory.
        port: port of its API on 127.0.0.1.
        https_port: port for agents and relays.
        parent: the policy server above it; None for the root server.
        password: the password that it requires for uploads.
    """

    title: str
    node: SimulatedNode
    workspace: Workspace
    port: int
    https_port: int
    parent: "PolicyServer | None"
    password: str

    @property
    def above(self) -> list["PolicyServer"]:
        """The policy servers above it, nearest first."""
        return [] if self.parent is None else [self.parent, *self.parent.above]

    @property
    def listen(self) -> str:
        """Its address and port for agents and relays."""
        return f"{self.node.hostname}:{self.https_port}"


def address(number: int) -> str:
    """Return the loopback address of a policy server; number 0 is the root server."""
    return f"127.0.0.{number + 1}"


def _parent(relay: int) -> int:
    """Return the number of the policy server above a relay."""
    return relay - 1 if relay % 2 == 0 else 0


class Tree:
    """All policy servers, and the nodes that report to them.

    Attributes:
        servers: the policy servers, the root server first, each after its parent.
        writers: number of the first of them that write to the database.
    """

    def __init__(
        self,
        layout: Layout,
        machines: Sequence[SimulatedNode],
        nodes: Sequence[SimulatedNode],
        *,
        writers: int = 1,
    ) -> None:
        """Lay out the tree.

        Args:
            layout: directories for the root server and the relays.
            machines: one for each policy server, the root server first.
            nodes: the managed nodes.
            writers: number of the machines that write to the database; more than one: no relays.
        """
        self.writers = writers
        https_port = free_port(*(machine.hostname for machine in machines))
        self._nodes = nodes
        self.servers: list[PolicyServer] = []
        for number, (workspace, node) in enumerate(zip(layout.workspaces, machines, strict=True)):
            title = f"relay {number}" if number else "root server"
            if writers > 1:
                title = f"server {number + 1}"
            parent = self.servers[_parent(number)] if number >= writers else None
            password = secrets.token_urlsafe(12)
            server = PolicyServer(title, node, workspace, free_port(), https_port, parent, password)
            self.servers.append(server)
        self._destinations = {
            server.title: make_destination(
                f"https://{server.listen}",
                server.password,
                server.node.certificate_pem().decode(),
            )
            for server in self.servers
        }
        homes = cycle(self.relays or self.servers)
        self._homes = {node.node_id: next(homes) for node in nodes}

    @property
    def root(self) -> PolicyServer:
        """The root server."""
        return self.servers[0]

    @property
    def relays(self) -> list[PolicyServer]:
        """All policy servers that do not write to the database."""
        return self.servers[self.writers :]

    def home(self, node_id: str) -> PolicyServer:
        """Return the policy server of a node; the last one for an unknown node."""
        return self._homes.get(node_id, self.servers[-1])

    def destination(self, node_id: str) -> Destination:
        """Return where a node uploads its run logs."""
        return self._destinations[self.home(node_id).title]

    def spools(self, node_id: str) -> list[Path]:
        """Return the `incoming` directories on the way of a node's run logs, bottom up."""
        home = self.home(node_id)
        return [server.workspace.incoming for server in (home, *home.above)]

    def holds(self, upload: SimulatedUpload) -> bool:
        """Return whether an upload is in a spool on its way."""
        # Bottom up: a relay removes a file only after it is in the spool of the server above.
        return any((spool / upload.name).exists() for spool in self.spools(upload.node_id))

    def names(self) -> dict[str, str]:
        """Return, by node id, the host names of nodes and the titles of policy servers."""
        return {node.node_id: node.hostname for node in self._nodes} | {
            server.node.node_id: server.title for server in self.servers
        }

    def write(self, database: ConnectionInfo, **more: str) -> None:
        """Write every file that the relayds read.

        Args:
            database: the connection to the database.
            more: further keys of `output.database`.
        """
        for server in self.servers:
            workspace = server.workspace
            self._write_lists(server)
            workspace.write_access(server.node, server.password)
            general = {
                "node_id": ROOT if server.parent is None else server.node.node_id,
                "listen": f"127.0.0.1:{server.port}",
                "https_port": server.https_port,
            }
            write = partial(workspace.write_configuration, server.title, general, server.listen)
            if server.parent is None:
                keys = {"url": database.url, "password": database.password, **more}
                write("database", database=keys)
            else:
                keys = {
                    "host": server.parent.node.hostname,
                    "password": server.parent.password,
                    "server_certificate_file": str(server.parent.workspace.certificate),
                }
                write("upstream", upstream=keys)
        write_environment(self.root.workspace)

    def _write_lists(self, server: PolicyServer) -> None:
        """Write nodes list and certificates as Rudder's server generates them."""
        below = [(other.node, other.parent or other) for other in self.servers] + [
            (node, self._homes[node.node_id]) for node in self._nodes
        ]
        known = [
            (node, home)
            for node, home in below
            if server.parent is None or server in (home, *home.above)
        ]
        listed = {node.node_id: node.entry(home.node.node_id) for node, home in known}
        directory = server.workspace.configuration
        (directory / NODES_LIST).write_text(json.dumps(listed, indent=1))
        pems = [node.certificate_pem() for node, _ in known]
        (directory / CERTIFICATES).write_bytes(b"".join(pems))


@asynccontextmanager
async def open_tree(tree: Tree) -> AsyncIterator[list[Daemon]]:
    """Run relayd for every policy server until the block ends.

    Yields:
        The daemons, in the order of `Tree.servers`. They are stopped bottom up.

    Raises:
        StartError: one of them did not start.
    """
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_open_server(server)) for server in tree.servers]


def _open_server(server: PolicyServer) -> AbstractAsyncContextManager[Daemon]:
    workspace, door = server.workspace, (server.node.hostname, server.https_port)
    return open_daemon(workspace.configuration, server.port, door, workspace.log)
