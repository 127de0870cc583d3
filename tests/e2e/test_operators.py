"""Operators at once, kills of relayd, commands and database: nothing lost, doubled or overtaken.

The same on a root server and on a relay that forwards to one.
"""

import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import trio

from relayd.commands.demo.postgres.opening import Postgres
from relayd.spool.failed.reasons import SUFFIX, read_reason
from tests.support.daemon import Daemon, Site, eventually, make_site, open_daemon
from tests.support.front import open_front
from tests.support.ledger import SEED, Ledger, fleet
from tests.support.postgres import Database
from tests.support.proxy import CutAfter, Delay, Fault, Proxy, Refuse, open_proxy
from tests.support.stored import Run, stored_executions
from tests.support.tree import make_tree

#: Files of this node may be dropped by any operator; of the others, only named ones.
DROPPED: Final = "node2"
NODES: Final = ("node0", "node1", "node2")
OPERATORS: Final = 3
ROUND_S: Final = 12.0
#: A round of `make test`.
SHORT_S: Final = 3.0

_INSERTED: Final = (
    "SELECT nodeid, extract(epoch FROM date)::bigint FROM reportsexecution ORDER BY insertionid"
)


class Campaign:
    """Uploads, operators and kills.

    Attributes:
        good: the names of run logs that must be stored, each with its node and number.
        inventories: names of inventories and of their signatures.
        may_go: names that an operator was about to drop.
        done: how often each command ended by itself, and "killed".

    Args:
        sites: from the one that gets the uploads to the root server, each forwards to the next.
        proxies: on the ways to the outputs.
        orderly: whether operators leave the order of each node's runs as it is.
        postgres: the server of the database, to be killed; None if it is not.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        proxies: Sequence[Proxy],
        seed: int,
        *,
        orderly: bool,
        postgres: Postgres | None = None,
    ) -> None:
        self.sites = sites
        self.site = sites[0]
        self.proxies = proxies
        self.orderly = orderly
        self.postgres = postgres
        self.ledger = Ledger(self.site, seed, NODES)
        self.good: dict[str, Run] = {}
        self.inventories: set[str] = set()
        self.may_go: set[str] = set()
        self.done: Counter[str] = Counter()
        self.random = random.Random(seed)

    @property
    def forwards(self) -> bool:
        """Whether what is uploaded passes a relay."""
        return len(self.sites) > 1

    async def upload(self) -> None:
        """Upload run logs, some of which are refused, and inventories, until cancelled."""
        kinds = [self._good] * 6 + [self.ledger.send_forged]
        kinds += [self._inventory] * self.forwards
        while True:
            for _ in range(self.random.randrange(1, 4)):
                self.random.choice(kinds)()
            await trio.sleep(self.random.uniform(0.0, 0.2))

    def _good(self) -> str:
        before = set(self.ledger.good)
        name = self.ledger.send()
        ((node, date),) = self.ledger.good.keys() - before
        self.good[name] = node, round((date - self.site.start().timestamp()) / 60)
        return name

    def _inventory(self) -> str:
        name = f"{len(self.inventories):06}.ocs"
        for part in (f"{name}.sign", f"{name}.gz"):
            self.inventories.add(part)
            self.site.upload(f"../../inventories/incoming/{part}", part.encode())
        return name

    async def keep_running(self, site: Site) -> None:
        """Start relayd and kill it, again and again, until cancelled."""
        while True:
            async with open_daemon(site, ready=None) as daemon:
                await trio.sleep(self.random.uniform(0.2, 4.0))
                ending = self.random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
                with suppress(ProcessLookupError):
                    await daemon.stop(ending)

    async def disturb(self, proxy: Proxy) -> None:
        """Break the way to an output, again and again, until cancelled."""
        while True:
            await trio.sleep(self.random.uniform(0.0, 2.0))
            kinds = [Refuse(), Delay(0.05), CutAfter(self.random.randrange(1, 20_000))]
            proxy.fault = fault = self.random.choice(kinds)
            if isinstance(fault, Refuse):
                proxy.reset()
            await trio.sleep(self.random.uniform(0.0, 1.5))
            proxy.fault = Fault()

    async def lose_database(self, postgres: Postgres) -> None:
        """Kill the database and start it, again and again, until cancelled."""
        while True:
            await trio.sleep(self.random.uniform(1.0, 5.0))
            postgres.kill()
            try:
                await trio.sleep(self.random.uniform(0.0, 3.0))
            finally:
                with trio.CancelScope(shield=True):
                    await postgres.start()
            self.done["outage"] += 1

    async def operate(self) -> None:
        """Give commands, one after the other, until cancelled; some are killed."""
        while True:
            kill = self.random.uniform(0.2, 1.5) if self.random.random() < 0.35 else None
            site = self.random.choice(self.sites)
            await self.command(site, *self._words(site), kill=kill)

    async def command(self, site: Site, *words: str, kill: float | None = None) -> int | None:
        """Run a command; kill it after so many seconds. Return its exit code, None if killed."""
        command = [sys.executable, "-m", "relayd", *words, "-c", str(site.conf)]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with trio.move_on_after(60.0 if kill is None else kill):
                await process.wait()
                self.done[" ".join(words[:2])] += process.returncode == 0
                return process.returncode
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        self.done["killed"] += 1
        return None

    def _words(self, site: Site) -> tuple[str, ...]:
        node = self.random.choice(NODES)
        words: list[tuple[str, ...]] = [
            ("queue", "hold", "--node", node),
            ("queue", "release", "--node", node),
            ("queue", "release", "--all"),
            ("queue", "retry", "--all"),
            ("queue", "drop", "--node", DROPPED, "--yes"),
            ("queue", "drop", "--yes"),
            ("failed", "replay", "--all"),
            ("failed", "drop", "--yes"),
            ("pause", "--for", "1s"),
            ("resume",),
        ]
        if not self.orderly:
            # Runs that are set aside by themselves are overtaken by the newer ones of their node.
            words += [
                ("queue", "hold", "--node", node, "--older", "1min"),
                ("queue", "hold"),
                ("queue", "release"),
            ]
        chosen = self.random.choice(words)
        if "--node" in chosen or "--all" in chosen or chosen[0] not in {"queue", "failed"}:
            return chosen
        names = self._some(*([site.failed] if chosen[0] == "failed" else _waiting_places(site)))
        if "drop" in chosen:
            self.may_go.update(names)
        return (*chosen, *names)

    def _some(self, *places: Path) -> Sequence[str]:
        """Return names of files that are there at this moment."""
        found = {"no such file.log"}
        for place in places:
            with suppress(FileNotFoundError):
                found |= {path.name for path in place.iterdir() if path.suffix in _SUFFIXES}
        return self.random.sample(sorted(found), min(3, len(found)))

    async def run(self, seconds: float) -> None:
        """Let all of it happen at once for a while, and then put things right."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.upload)
            for site in self.sites:
                nursery.start_soon(self.keep_running, site)
            for proxy in self.proxies:
                nursery.start_soon(self.disturb, proxy)
            if self.postgres is not None:
                nursery.start_soon(self.lose_database, self.postgres)
            for _ in range(OPERATORS):
                nursery.start_soon(self.operate)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
        for proxy in self.proxies:
            proxy.fault = Fault()
        async with AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(open_daemon(site)) for site in self.sites]
            for daemon in daemons:
                await self._put_right(daemon)
            for daemon in daemons:
                assert await daemon.stop() == 0

    async def _put_right(self, daemon: Daemon) -> None:
        """Release and work off all that waits, at one server."""
        assert await self.command(daemon.site, "resume") == 0
        # A file of a name that waits stays aside until that one is stored.
        with trio.fail_after(120):
            while any(_held(daemon.site)) or _waiting(daemon.site):
                await self.command(daemon.site, "queue", "release", "--all")
        await daemon.settled()
        await daemon.idle()
        await eventually(lambda: not _waiting(daemon.site))

    def check(self, database: Database) -> None:
        """Assert that every file is in one place, or was dropped by somebody who asked for it."""
        failed = self._refused()
        assert failed.keys() <= self.ledger.bad
        # A relay that is killed before it removes a file that was accepted sends it once more.
        copies = {name: len(found) for name, found in failed.items()}
        assert set(copies.values()) <= {1}, copies
        stored = stored_executions(database.query)
        assert set(stored.values()) <= {1}
        names = {run: name for name, run in self.good.items()}
        present = {names[run] for run in stored} | set(failed) | self._arrived()
        sent = self.good.keys() | self.ledger.bad | self.inventories
        lost = {
            name for name in sent - present - self.may_go if not name.endswith(f"@{DROPPED}.log")
        }
        assert not lost
        assert present <= sent
        if self.orderly:
            self.check_order(database)

    def check_order(self, database: Database) -> None:
        """Assert that the runs of each node were inserted in the order of their START."""
        dates = defaultdict(list)
        for node, date in database.query(_INSERTED):
            dates[node].append(int(date))
        late = [
            (node, (older - newest) // 60)
            for node, own in dates.items()
            for newest, older in pairwise(own)
            if older < newest
        ]
        assert not late, late

    def _arrived(self) -> set[str]:
        """Return the names of the inventories that are at the root server, as they were sent."""
        if not self.forwards:
            return set()
        place = self.sites[-1].root / "inventories" / "incoming"
        found = {path.name: path.read_bytes() for path in place.iterdir()}
        assert all(content == name.encode() for name, content in found.items())
        return set(found)

    def _refused(self) -> dict[str, list[bytes]]:
        """Return the contents of the refused files by name."""
        found = defaultdict(list)
        for site in self.sites:
            for path in site.failed.iterdir():
                if path.name.endswith(SUFFIX) or path.name.startswith("."):
                    continue
                record = read_reason(path.with_name(path.name + SUFFIX))
                found[path.name if record is None else record.name].append(path.read_bytes())
        return found


_SUFFIXES: Final = frozenset({".log", ".gz", ".sign"})


def _spools(site: Site) -> list[Path]:
    """Return the spools from which relayd takes files."""
    spools = [site.root / "reports"]
    if "output.upstream" in site.tables():
        spools.append(site.root / "inventories")
    return spools


def _incoming(site: Site) -> list[Path]:
    return [spool / "incoming" for spool in _spools(site)]


def _held(site: Site) -> list[Path]:
    """Return the files that were set aside."""
    return [
        path
        for spool in _spools(site)
        for path in (spool / "on-hold").glob("*/*")
        if path.suffix in _SUFFIXES
    ]


def _waiting(site: Site) -> list[Path]:
    return [path for place in _incoming(site) for path in place.iterdir()]


def _waiting_places(site: Site) -> list[Path]:
    """Return the directories of the files that wait or were set aside."""
    on_hold = [path for spool in _spools(site) for path in (spool / "on-hold").glob("incoming*")]
    return [*_incoming(site), *on_hold]


@asynccontextmanager
async def open_campaign(
    where: str,
    root: Path,
    database: Database,
    seed: int,
    *,
    orderly: bool,
    postgres: Postgres | None = None,
) -> AsyncIterator[Campaign]:
    """Write a server, or a relay and its root server, with proxies before their outputs."""
    async with AsyncExitStack() as stack:
        own = database.rudder
        proxies = [await stack.enter_async_context(open_proxy(own.host, own.port))]
        behind = replace(own, port=proxies[0].port)
        if where == "root":
            sites = [make_site(root, behind, fleet(NODES))]
        else:
            tree = make_tree(root, behind)
            await stack.enter_async_context(open_front(tree.root.front()))
            upstream = open_proxy(tree.root.host, tree.root.https_port)
            proxies.append(await stack.enter_async_context(upstream))
            tree.relay.https_port = proxies[1].port
            tree.relay.write()
            sites = [tree.relay, tree.root]
        disturbed = proxies if orderly else ()
        yield Campaign(sites, disturbed, seed, orderly=orderly, postgres=postgres)


@pytest.mark.fault("L6", "S1", "F18")
@pytest.mark.parametrize("orderly", [False, True], ids=["any", "orderly"])
@pytest.mark.parametrize(
    ("where", "rounds"),
    [
        pytest.param(where, rounds, marks=pytest.mark.torture)
        for where in ("root", "relay")
        for rounds in (3, 40)
    ],
)
async def test_operators_at_once_and_kills_lose_and_double_nothing(
    tmp_path: Path, private_postgres: Postgres, where: str, rounds: int, orderly: bool
) -> None:
    """After each round, every file is stored once, refused once, or was dropped by name or node.

    Where operators set whole nodes aside only, the runs of each node are stored in order, although
    the outputs fail as well. The database of a root server alone is killed all the time.
    """
    seed, own = SEED + rounds, private_postgres
    database = Database(rudder=own.rudder, superuser=own.superuser, server=own.server)
    lost = own if where == "root" else None
    async with open_campaign(
        where, tmp_path, database, seed, orderly=orderly, postgres=lost
    ) as campaign:
        for number in range(rounds):
            await campaign.run(ROUND_S)
            campaign.check(database)
            print(number, len(campaign.good), len(campaign.ledger.bad), dict(campaign.done))
        assert campaign.done["killed"] >= rounds
        assert (campaign.done["outage"] > 0) == (where == "root")
        for command in ("queue hold", "queue release", "queue drop", "failed drop"):
            assert campaign.done[command]


@pytest.mark.fault("L6", "S1", "F18")
async def test_a_relay_with_operators_and_kills_keeps_every_file_and_its_order(
    tmp_path: Path, database: Database
) -> None:
    """A short round of it: uploads, operators, kills and outages, at a relay and a root server."""
    async with open_campaign("relay", tmp_path, database, SEED, orderly=True) as campaign:
        await campaign.run(SHORT_S)
        campaign.check(database)
        assert campaign.good
        assert campaign.inventories
