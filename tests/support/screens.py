"""The screens of docs/operate.md, from a small site on this machine.

    python -m tests.support.screens [NAME…]      print all screens, or those of some chapters

A root server, two relays in a row below it, and forty nodes: real relayd, PostgreSQL and TLS, in
namespaces of their own, so that the paths, ports and host names are those of an installation.
Needs root. Takes nine minutes, since a silence is one only after some minutes of work.
"""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.postgres.server import Server
from relayd.config.main_conf import Listen
from tests.support.clock import ShiftedClock
from tests.support.daemon import Daemon, merge, open_daemon
from tests.support.front import Front, open_front
from tests.support.postgres import QUICK
from tests.support.signing import SigningNode, make_key_and_cert, rsa_key, sign_runlog
from tests.support.terminal import open_terminal
from tests.support.tree import Member

_INSIDE: Final = "RELAYD_SCREENS"
ROOT, PARIS, LYON = "root", "relay-paris", "relay-lyon"
ADDRESSES: Final = {ROOT: "127.0.0.1", PARIS: "127.0.0.2", LYON: "127.0.0.3"}
NODES: Final = {
    **{f"web-{number}": ROOT for number in range(1, 21)},
    **{f"db-{number}": ROOT for number in range(1, 5)},
    **{f"app-{number}": PARIS for number in range(1, 11)},
    **{f"shop-{number}": LYON for number in range(1, 7)},
}
STRANGER, NEW, GONE, FLOOD = "new-1", "web-7", "db-2", "web-12"
_DAY_S: Final = 86_400
PROGRAM: Final = str(Path(sys.executable).with_name("relayd"))
_STYLE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: The daemon, which takes five minutes for a usual rate instead of an hour.
_DAEMON: Final = """
import relayd.telemetry.rates
relayd.telemetry.rates.USUAL_POINTS = 1
from relayd.commands.entry import relayd
relayd()
"""
_AGENT: Final = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
for host in $(echo "$2" | tr , ' '); do
    echo "$host: R: Common: 71 components checked, 70 compliant, 1 repaired"
    case $host in
        web-3.*) echo "$host: R: error: sshConfiguration: sshd does not start"; exit 1 ;;
    esac
done
"""


def node_id(name: str) -> str:
    """Return the id of a node; policy servers but the root server have one too."""
    return ROOT if name == ROOT else str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def hostname(name: str) -> str:
    """Return the host name of a node."""
    return f"{name}.example.com"


@dataclass
class Place(Member):
    """A policy server; the root server has the paths of an installation."""

    title: str = ROOT

    @property
    def conf(self) -> Path:
        """The configuration directory."""
        return Path("/opt/rudder/etc/relayd") if self.title == ROOT else super().conf

    @property
    def control(self) -> Path | None:
        """Its control socket."""
        own = Path("/run/rudder-relayd/control.sock")
        return own if self.title == ROOT else super().control

    @property
    def host(self) -> str:
        """Name of its web front."""
        return hostname(self.title)

    def front(self) -> Front:
        """Return its web server."""
        listen = Listen(host=ADDRESSES[self.title], port=self.https_port)
        return replace(super().front(), listen=listen)

    def tables(self) -> dict[str, str]:
        """Return what `main.conf` says."""
        tables = super().tables()
        more = 'state_directory = "/var/lib/rudder-relayd"' if self.title == ROOT else ""
        tables["general"] = merge(tables["general"], f"core_threads = 1\n{more}")
        if self.parent is None:
            tables["output.database"] = merge(
                tables["output.database"],
                f'url = "postgres://{self.database.user}@db1.example.com:5432/rudder"',
            )
        return tables

    def write(self) -> None:
        """Write all files, and the agents' command."""
        super().write()
        (self.root / "agent").write_text(_AGENT)

    def _entry(self, node: str) -> dict[str, str]:
        spki = self.nodes[node].certificate.spki
        return {
            "hostname": next(hostname(name) for name in (*PLACES, *NODES) if node_id(name) == node),
            "policy-server": self.policy_servers[node],
            "key-hash": f"sha256:{hashlib.sha256(spki).hexdigest()}",
        }


PLACES: Final = {ROOT: ROOT, PARIS: ROOT, LYON: PARIS}


@dataclass
class Town:
    """The whole site.

    Attributes:
        server: the database.
        places: the policy servers by name.
        nodes: keys and certificates by node id.
    """

    server: Server
    places: dict[str, Place]
    nodes: dict[str, SigningNode]

    @property
    def root(self) -> Place:
        """The root server."""
        return self.places[ROOT]

    def send(
        self,
        name: str,
        *,
        minutes: float = 0.0,
        seconds: float = 20.0,
        cut: bool = False,
        signer: str | None = None,
        changed: bool = False,
        at: float = 0.0,
    ) -> str:
        """Upload a run log to the policy server of its node; return its name.

        Args:
            name: of the node.
            minutes: since the run.
            seconds: the same.
            cut: whether only a part of it arrives.
            signer: another node that signs it.
            changed: whether it is changed after signing.
            at: seconds that are added to the clock.
        """
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=at)
        start = moment - timedelta(minutes=minutes, seconds=seconds)
        node = node_id(name)
        text = make_runlog(node, start, 72, config_id="20261128-081100-5e7a91c0")
        signed = sign_runlog(text, self.nodes[node_id(signer or name)])
        if changed:
            signed = signed.replace(b"backup", b"backed", 1)
        data = gzip.compress(signed)
        file = f"{start.isoformat()}@{node}.log.gz"
        place = self.places[(NODES | PLACES).get(name, ROOT)]
        path = place.upload(file, data[: len(data) // 2] if cut else data)
        arrived = (moment - timedelta(minutes=minutes)).timestamp()
        if minutes:
            os.utime(path, (arrived, arrived))
        return file


def make_town(directory: Path, server: Server) -> Town:
    """Write all files."""
    servers = {node_id(name): node_id(parent) for name, parent in (PLACES | NODES).items()}
    key = rsa_key("all", 4096)
    nodes = {
        node: make_key_and_cert(node, key=key if n % 2 else None) for n, node in enumerate(servers)
    }
    nodes[node_id(STRANGER)] = make_key_and_cert(node_id(STRANGER))
    places: dict[str, Place] = {}
    for name, parent in PLACES.items():
        place = Place(
            Path("/var/rudder") if name == ROOT else directory / name,
            3030 if name == ROOT else 3030 + len(places),
            server.rudder,
            {node: own for node, own in nodes.items() if node in servers},
            {"processing.reporting": 'settle_time = "100ms"'},
            me=node_id(name),
            https_port=443,
            identity=nodes[node_id(name)],
            parent=places.get(parent) if name != ROOT else None,
            policy_servers=servers,
            title=name,
        )
        place.write()
        places[name] = place
    return Town(server, places, nodes)


def show(*words: str, keys: bytes = b"", rows: int = 500) -> int:
    """Print a command line and what it prints at a terminal of 80 columns; return the exit code."""
    command = [PROGRAM, *words]
    print(f"$ relayd {' '.join(words)}")
    with open_terminal(command, rows=rows, env={"COLUMNS": "80"}) as terminal:
        if keys:
            terminal.shows("[y/N]")
            terminal.press(keys)
        code = terminal.end()
        text = _STYLE.sub("", terminal.printed).replace("\r", "")
    for line in text.splitlines():
        flag = f"     <<< {len(line)} columns" if len(line) > 80 else ""
        print(line.rstrip() + flag)
    print(f"[exit code {code}]\n", flush=True)
    return code


async def screen(*words: str, keys: bytes = b"") -> int:
    """Do the same beside web servers of this process."""
    return await trio.to_thread.run_sync(partial(show, *words, keys=keys))


@asynccontextmanager
async def open_places(
    town: Town, names: Sequence[str] = tuple(PLACES)
) -> AsyncIterator[dict[str, Daemon]]:
    """Run relayd on some policy servers."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(
                open_daemon(
                    town.places[name], python=(sys.executable, "-c", _DAEMON), program=("run",)
                )
            )
            for name in names
        }


def chapter(title: str) -> None:
    print(f"===== {title}\n", flush=True)


async def yesterday(town: Town, directory: Path) -> None:
    """What happened two days and three hours ago."""
    clock = ShiftedClock(directory)
    for days, names in ((2.1, ("web-1", STRANGER)), (0.13, (GONE,))):
        away = -days * _DAY_S
        clock.set(away)
        async with open_daemon(town.root, env=clock.env):
            for name in names:
                for number in range(3):
                    town.send(name, minutes=5 * number, at=away)
            if days < 1:
                town.send("web-9", signer="web-10", at=away)
                town.send("web-11", changed=True, at=away)
            with trio.move_on_after(20):
                while town.root.waiting():
                    await trio.sleep(0.1)


async def work(town: Town, minutes: float) -> None:
    """Nodes report, each every five minutes."""
    names = [name for name in NODES if name not in (NEW, GONE)]
    end = trio.current_time() + 60 * minutes
    number = 0
    while trio.current_time() < end:
        town.send(names[number % len(names)])
        number += 1
        await trio.sleep(300 / len(names))


def top(*steps: tuple[bytes, str]) -> None:
    """Print what `relayd top` shows after some keys each, once it shows a text."""
    with open_terminal([PROGRAM, "top"]) as terminal:
        terminal.shows("relayd failed list")
        for keys, text in steps:
            for key in re.findall(rb"\x1b\[.|.", keys, re.DOTALL):
                terminal.press(key)
                time.sleep(0.5)
            terminal.shows(text)
            lines = terminal.shows("q: quit")
            time.sleep(0.2)
            print(f"$ relayd top     keys {keys!r}")
            print("\n".join(lines).rstrip() + "\n", flush=True)
        terminal.press(b"q")
        terminal.end()


async def normal(town: Town, daemons: dict[str, Daemon]) -> None:
    """Screens while all is well."""
    chapter("well")
    refused = [
        town.send("web-4", cut=True),
        *(town.send(STRANGER, minutes=5 * number) for number in range(3, 6)),
    ]
    town.root.upload("backup.tar.gz", b"x" * 400)
    await trio.sleep(3)
    await screen("status")
    await screen("status", "--json")
    await screen("nodes")
    await screen("nodes", "--silent", "15min")
    await screen("nodes", "--failing")
    await screen("nodes", "--relay", "paris")
    await screen("nodes", "--relay", "paris", "--limit", "2", "--json")
    await screen("node", "web-3")
    await screen("node", "web-4")
    await screen("node", "web-4", "--json")
    await screen("node", NEW)
    await screen("node", GONE)
    await screen("node", "shop-1", "--follow-relays")
    await screen("node", "shop-1", "--follow-relays", "--json")
    await screen("node", "web")
    await screen("node", "nobody")
    await screen("failed", "list")
    await screen("failed", "list", "--json")
    await screen("failed", "show", "archive")
    await screen("failed", "show", "archive", "--json")
    await screen("failed", "show", "--node", "web-9")
    await screen("failed", "show", refused[0])
    await screen("failed", "show", "nothing")
    await screen("failed", "replay", "--all", "--dry-run")
    await screen("failed", "replay", "--reason", "archive", "--dry-run", "--json")
    await screen("failed", "drop", "--reason", "bad_name", "--dry-run")
    await screen("failed", "drop", "--reason", "bad_name", keys=b"y\n")
    await screen("failed", "drop", "--reason", "archive", "--yes", "--json")
    await screen("failed", "drop")
    await screen("failed", "drop", "--reason", "empty", "--yes")
    await screen("failed", "list", "--reason", "empty")
    await screen("queue", "list")
    await screen("queue", "shape")
    await screen("run", "web-1", "web-3", "app-1", "shop-2")
    await screen("run", "web-1", "--json")
    await screen("run", "--all", keys=b"n\n")
    await screen("support", "-o", "report.tar.gz")
    await trio.to_thread.run_sync(
        partial(
            top,
            (b"", "> nodes by waiting"),
            (b"\r", "of 43 nodes"),
            (b"\x1b[D\x1b[B\x1b[B\r", "of 43 nodes"),
            (b"\x1b[D\x1b[B\r", "of 43 nodes"),
            (b"\r", "last run log"),
            (b"\x1b[D\x1b[D\x1b[B\r", "RELAY "),
            (b"\x1b[B\r", "of 43 nodes"),
            (b"\x1b[D\x1b[D\x1b[B\r", "relayd failed show "),
            (b"\r", "what to do"),
        )
    )
    chapter("paused")
    await screen("pause", "--for", "10min")
    for number in range(1, 8):
        town.send(f"web-{number}")
    await trio.sleep(3)
    await screen("status")
    await screen("pause", "--json")
    await screen("resume")
    await screen("resume")
    await screen("resume", "--json")
    del daemons


async def relay_away(town: Town) -> None:
    chapter("a relay is away")
    await screen("node", "shop-1", "--follow-relays")
    await screen("run", "web-1", "shop-2", "app-3")


async def outage(town: Town) -> None:
    """Screens while the database is away."""
    chapter("outage")
    town.server.stop("fast")
    for number in range(120):
        town.send(FLOOD, minutes=number / 3)
    for name in ("web-1", "web-2", "web-3", "db-1"):
        for number in range(4):
            town.send(name, minutes=5 * number + 2)
    await trio.sleep(12)
    await screen("status")
    await screen("queue", "shape")
    await screen("queue", "shape", "--rows", "2", "--json")
    await screen("queue", "list", "--limit", "3")
    await screen("queue", "list", "--limit", "2", "--json")
    await screen("queue", "show", "--node", "db-1", "--newer", "10min")
    await screen("queue", "show", "--node", "db-1", "--newer", "5min", "--json")
    await screen("queue", "hold", "--node", FLOOD, "--dry-run")
    await screen("queue", "hold", "--node", FLOOD)
    town.send(FLOOD)
    await trio.sleep(2)
    await screen("queue", "hold", "--match", "*@" + node_id("db-1") + "*")
    await screen("status")
    await screen("queue", "list", "--state", "held", "--limit", "2")
    await screen("queue", "list", "--limit", "2", "--node", "web-2")
    await screen("queue", "release", "--node", FLOOD, "--dry-run")
    await screen("queue", "release", "--node", FLOOD)
    await screen("queue", "retry", "--node", "web-1")
    await screen("queue", "retry", "--all", "--json")
    await screen("queue", "drop", "--node", FLOOD, "--older", "30min", "--dry-run")
    await screen("queue", "drop", "--node", FLOOD, "--older", "30min", "--yes")
    await screen("queue", "hold")
    await screen("queue", "show", "nothing")
    await screen("queue", "hold", "--node", "web")
    await screen("node", FLOOD)
    await screen("nodes", "--sort", "waiting", "--limit", "3")


async def behind(town: Town) -> None:
    """Screens while a backlog becomes smaller."""
    chapter("behind")
    await screen("pause")
    town.server.start()
    for number in range(8000):
        town.send(f"web-{number % 20 + 1}", minutes=2 + number / 1000)
        if not number % 50:
            await trio.sleep(0)
    await screen("resume")
    for _ in range(3):
        await trio.sleep(5)
        await screen("status")


async def stopped(town: Town) -> None:
    """Screens while relayd does not run."""
    chapter("relayd does not run")
    for number in range(3):
        town.send("web-1", minutes=5 * number + 1)
    await screen("status")
    await screen("status", "--json")
    await screen("nodes", "--silent", "15min")
    await screen("node", "web-1")
    await screen("node", "shop-1", "--follow-relays")
    await screen("queue", "list")
    await screen("queue", "shape")
    await screen("queue", "show", "--node", "web-1", "--older", "10min")
    await screen("queue", "hold", "--node", "web-1")
    await screen("queue", "release", "--all")
    await screen("queue", "retry", "--all")
    await screen("failed", "list")
    await screen("pause", "--for", "5min")
    await screen("resume")
    await screen("run", "web-1")
    await screen("top")


async def build(names: Sequence[str]) -> None:
    """Build the site and show it."""
    with tempfile.TemporaryDirectory(prefix="screens-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        server = Server(directory / "db", port=5432, extra=QUICK)
        server.create()
        try:
            town = make_town(directory, server)
            os.chdir(directory)
            await perform(town, directory, names)
        finally:
            server.close()


async def perform(town: Town, directory: Path, names: Sequence[str]) -> None:
    await yesterday(town, directory)
    async with AsyncExitStack() as stack:
        for place in town.places.values():
            await stack.enter_async_context(open_front(place.front()))
        async with open_places(town, (ROOT, PARIS)) as daemons:
            for name in (*NODES, ROOT, PARIS, LYON):
                if name not in (NEW, GONE):
                    town.send(name)
            async with open_places(town, (LYON,)):
                await trio.sleep(4)
                if "normal" in names or not names:
                    await normal(town, daemons)
            if "relays" in names or not names:
                await relay_away(town)
            if "outage" in names or not names:
                await outage(town)
            if "behind" in names or not names:
                await behind(town)
            if "silent" in names or not names:
                chapter("silent")
                await work(town, 6)
                await trio.sleep(135)
                await screen("status")
        await stopped(town)


def inside() -> None:
    """Make the file system, host names and network of the site."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["hostname", "root.example.com"], check=True)
    for place in ("/opt", "/run", "/var/rudder", "/var/lib/rudder-relayd"):
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    for place in ("/opt/rudder/bin", "/run/rudder-relayd", "/opt/rudder/etc/relayd"):
        Path(place).mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix="-hosts") as hosts:
        names = [f"{address} {hostname(name)}" for name, address in ADDRESSES.items()]
        hosts.write("\n".join(["127.0.0.1 localhost db1.example.com", *names, ""]))
        hosts.flush()
        Path(hosts.name).chmod(0o644)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
        trio.run(build, sys.argv[1:])


if __name__ == "__main__":
    if os.environ.get(_INSIDE):
        inside()
    else:
        apart = [
            "unshare",
            "--mount",
            "--net",
            "--uts",
            sys.executable,
            "-m",
            "tests.support.screens",
        ]
        sys.exit(
            subprocess.run(
                [*apart, *sys.argv[1:]], env=os.environ | {_INSIDE: "1"}, check=False
            ).returncode
        )
