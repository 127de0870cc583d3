"""Three relayd that form a tree: a root server, a relay below it, a relay below that.

    root ── relay ── sub        web fronts on 127.0.0.1, .2 and .3, all on one port
     │        │       │
    node0   node1   node2       one managed machine of each

Each has a directory, a configuration, a certificate and passwords of its own.
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.config.main_conf import Listen
from tests.support.daemon import Daemon, Site, merge, open_daemon, replace
from tests.support.front import Front, open_front
from tests.support.ports import free_port
from tests.support.signing import SigningNode, make_key_and_cert

ROOT, RELAY, SUB = "root", "relay", "sub"
PARENTS: Final = {ROOT: ROOT, RELAY: ROOT, SUB: RELAY, "node0": ROOT, "node1": RELAY, "node2": SUB}
HOSTS: Final = {ROOT: "127.0.0.1", RELAY: "127.0.0.2", SUB: "127.0.0.3"}

#: The agents' command: notes how it was called, and for each host says a line; where there is a
#: named pipe `hold`, it waits between two lines of a host until the pipe was opened by a writer.
_AGENT: Final = """\
#!/bin/sh
echo "$@" >> '{root}/calls'
while [ "$1" != "--" ]; do shift; done
for host in $(echo "$2" | tr , ' '); do
    echo "$host: begins, started by {me}"
    if [ -p '{root}/hold' ]; then read -r word < '{root}/hold'; fi
    echo "$host: ends"
done
"""


@dataclass
class Member(Site):
    """One relayd of the tree with its spool and its web front.

    Attributes:
        me: node id, its own.
        https_port: of all fronts.
        identity: key and certificate of its web front.
        parent: the member above it.
        policy_servers: policy server of each node of the tree.
    """

    me: str = ROOT
    https_port: int = 0
    identity: SigningNode = field(default_factory=lambda: make_key_and_cert(ROOT))
    parent: "Member | None" = None
    policy_servers: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Address of its web front."""
        return HOSTS[self.me]

    @property
    def password(self) -> str:
        """What a known node, or a relay below, has to say."""
        return f"password of {self.me}"

    @property
    def default_password(self) -> str:
        """What a new node has to say."""
        return f"default password of {self.me}"

    @property
    def inventories(self) -> Path:
        """Directory of the inventories' spools."""
        return self.root / "inventories"

    @property
    def shared_files(self) -> Path:
        """Where files that nodes share are kept."""
        return self.root / "shared-files"

    @property
    def url(self) -> str:
        """Its web front, without a slash at the end."""
        return f"https://{self.host}:{self.https_port}"

    def write(self) -> None:
        """Write everything that relayd and the front read at their start."""
        for place in (self.incoming, self.failed, self.shared_files):
            place.mkdir(parents=True, exist_ok=True)
        for name in ("incoming", "accepted-nodes-updates", "failed"):
            (self.inventories / name).mkdir(parents=True, exist_ok=True)
        self.identity.write(self.root)
        agent = self.root / "agent"
        agent.write_text(_AGENT.format(root=self.root, me=self.me))
        agent.chmod(0o755)
        super().write()

    def write_nodes(self, nodes: Iterable[str]) -> None:
        """Write nodes list and certificates with what is below."""
        known = {node: self._entry(node) for node in nodes if self._is_below(node)}
        replace(self.nodes_list, json.dumps(known).encode())
        replace(self.certificates, b"".join(self.nodes[node].cert_pem for node in known))

    def _is_below(self, node: str) -> bool:
        while node not in (self.me, ROOT):
            node = self.policy_servers[node]
            if node == self.me:
                return True
        return self.me == ROOT

    def _entry(self, node: str) -> dict[str, str]:
        spki = self.nodes[node].certificate.spki
        return {
            "hostname": HOSTS.get(node, f"{node}.test"),
            "policy-server": self.policy_servers[node],
            "key-hash": f"sha256:{hashlib.sha256(spki).hexdigest()}",
        }

    def tables(self) -> dict[str, str]:
        """Return what `main.conf` says by itself."""
        tables = super().tables()
        tables["general"] = merge(
            tables["general"], f'node_id = "{self.me}"\nhttps_port = {self.https_port}'
        )
        tables["processing.inventory"] = f'directory = "{self.inventories}"'
        tables["processing.inventory.catchup"] = 'frequency = "1s"'
        tables["remote_run"] = f'command = "{self.root / "agent"}"\nuse_sudo = false'
        tables["shared_files"] = f'path = "{self.shared_files}"'
        if self.parent is not None:
            self._forward(tables, self.parent)
        return tables

    def _forward(self, tables: dict[str, str], parent: "Member") -> None:
        del tables["output.database"]
        for table in ("processing.reporting", "processing.inventory"):
            tables[table] = merge(tables[table], 'output = "upstream"')
        tables["output.upstream"] = f"""
            host = "{parent.host}"
            password = "{parent.password}"
            default_password = "{parent.default_password}"
            server_certificate_file = "{parent.root / f"{parent.me}.cert"}"
        """

    def front(self) -> Front:
        """Its web server."""
        return Front(
            self.root,
            Listen(host=self.host, port=self.https_port),
            Listen(host="127.0.0.1", port=self.port),
            self.root / f"{self.me}.cert",
            self.root / f"{self.me}.priv",
            self.password,
            self.default_password,
        )

    def hold_agent(self) -> "Hold":
        """From now on the agents' command waits after the first line of each host."""
        os.mkfifo(self.root / "hold")
        return Hold(self.root / "hold")

    def agent_calls(self) -> list[str]:
        """How the agents' command was called, a line for each call."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Hold:
    """A waiting agents' command."""

    path: Path

    async def release(self) -> None:
        """Lets one host end, once its command waits."""
        await trio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        with self.path.open("w"):
            pass


@dataclass
class Tree:
    """The three members.

    Attributes:
        nodes: key and certificate of every machine, the members included.
    """

    root: Member
    relay: Member
    sub: Member
    nodes: dict[str, SigningNode]

    @property
    def members(self) -> tuple[Member, ...]:
        """All three, from the top."""
        return self.root, self.relay, self.sub

    def home(self, node: str) -> Member:
        """Return the policy server of a machine."""
        policy_server = self.root.policy_servers[node]
        return {member.me: member for member in self.members}[policy_server]

    def add(self, node: str, policy_server: str) -> None:
        """One more machine, in every list that it belongs to."""
        self.nodes[node] = make_key_and_cert(node)
        for member in self.members:
            member.policy_servers[node] = policy_server
            member.write_nodes(self.nodes)

    def certify(self, me: str, identity: SigningNode) -> None:
        """Give a member another certificate, pinned wherever its former one was."""
        self.nodes[me] = identity
        for member in self.members:
            if member.me == me:
                member.identity = identity
                identity.write(member.root)
            member.write_nodes(self.nodes)

    def waiting(self) -> dict[str, list[str]]:
        """Run logs that are in a spool, by member; only where there are some."""
        # From below: a relay removes a file only when it is in the spool above.
        upwards = reversed(self.members)
        return {member.me: names for member in upwards if (names := member.waiting())}

    def refused(self) -> dict[str, dict[str, str]]:
        """Reasons of refused run logs by member and name; only where there are some."""
        return {member.me: reasons for member in self.members if (reasons := member.refused())}


def make_tree(root: Path, database: ConnectionInfo) -> Tree:
    """Return a tree below a directory, written."""
    nodes = {node: make_key_and_cert(node) for node in PARENTS}
    port = free_port(*HOSTS.values())
    members: list[Member] = []
    for me in HOSTS:
        member = Member(
            root / me,
            free_port(),
            database,
            nodes,
            me=me,
            https_port=port,
            identity=nodes[me],
            parent=members[-1] if members else None,
            policy_servers=dict(PARENTS),
        )
        member.write()
        members.append(member)
    top, middle, bottom = members
    return Tree(top, middle, bottom, nodes)


@asynccontextmanager
async def open_fronts(tree: Tree) -> AsyncIterator[None]:
    """Run the three web servers until the block ends."""
    async with AsyncExitStack() as stack:
        for member in tree.members:
            await stack.enter_async_context(open_front(member.front()))
        yield


@asynccontextmanager
async def open_tree(
    tree: Tree, wrapper: Callable[[Member], Iterable[str]] = lambda _: ()
) -> AsyncIterator[dict[str, Daemon]]:
    """Run the web servers and the three relayd until the block ends; the latter by node id.

    Args:
        tree: of them.
        wrapper: the command that runs each relayd.
    """
    async with open_fronts(tree), AsyncExitStack() as stack:
        yield {
            member.me: await stack.enter_async_context(open_daemon(member, wrapper=wrapper(member)))
            for member in tree.members
        }
