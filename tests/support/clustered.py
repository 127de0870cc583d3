"""Real relayds on a real cluster that fails over, and a plain writer to compare them with."""

import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Final, Literal

import pytest
import trio

from relayd.commands.demo.cluster.cluster import Cluster
from relayd.commands.demo.cluster.failovers import FAILOVERS
from relayd.commands.demo.cluster.programs import find_programs
from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.errors import StartError
from tests.support.daemon import Site, eventually
from tests.support.pgbouncer import open_shipped_pgbouncer
from tests.support.stored import Run

Route = Literal["haproxy", "hosts", "session", "transaction"]

#: The first Patroni that neither overwrites the leader's key nor keeps outdated keys.
_GUARDED_LEADER: Final = (3, 1)
#: Seconds for what needs a failover and a copy of the data.
PATIENCE_S: Final = 180.0
#: Seconds between two run logs of a site, and between two rows of the plain writer.
PERIOD_S: Final = 0.05
_PROBE_PERIOD_S: Final = 0.1
#: Seconds after which the plain writer gives up a row and connects again.
_PROBE_PATIENCE_S: Final = 3.0


def needs_programs() -> None:
    """Skip the test where the programs of a cluster are not installed."""
    try:
        find_programs()
    except StartError as error:
        pytest.skip(str(error))


def needs_guarded_leader() -> None:
    """Skip the test where Patroni lets a primary that wakes up take the leader's key back.

    Then commits are lost that the synchronous standby has, unless a watchdog resets the machine.
    """
    command = [str(find_programs().patroni), "--version"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    version = tuple(map(int, re.findall(r"\d+", answer)))
    if version < _GUARDED_LEADER:
        pytest.skip(f"{answer.strip()} is too old; RELAYD_PATRONI may name a later one")


@contextmanager
def open_route(cluster: Cluster, route: Route) -> Iterator[tuple[str, ConnectionInfo]]:
    """Yield the URL by which the primary is reached, and the connection to build it from.

    Args:
        cluster: the cluster.
        route: through HAProxy, through both it and PgBouncer in one of its modes, or directly.
    """
    rudder = cluster.rudder
    if route == "haproxy":
        yield rudder.url, rudder
    elif route == "hosts":
        yield cluster.url, rudder
    else:
        with open_shipped_pgbouncer(rudder, route) as port:
            pooled = replace(rudder, port=port)
            yield pooled.url, pooled


@dataclass
class PlainWriter:
    """Inserts one row after the other with psql, and connects again when one fails.

    Attributes:
        cluster: where to.
        url: how the primary is reached, without the password.
        confirmed: the numbers of the rows whose commits were confirmed.
    """

    cluster: Cluster
    url: str
    confirmed: set[int] = field(default_factory=set)

    def create(self) -> None:
        """Create its table."""
        self.cluster.psql(
            "CREATE TABLE plain (number int, at timestamptz DEFAULT clock_timestamp());"
            "GRANT INSERT ON plain TO rudder"
        )

    async def run(self) -> None:
        """Write until cancelled."""
        number = 0
        environment = {"PGPASSWORD": self.cluster.rudder.password, "PGCONNECT_TIMEOUT": "2"}
        command = [str(self.cluster.programs.postgres / "psql"), "-X", "-q", self.url, "-c"]
        while True:
            number += 1
            begin = trio.current_time()
            with trio.move_on_after(_PROBE_PATIENCE_S):
                sql = f"INSERT INTO plain VALUES ({number})"
                done = await trio.run_process(
                    [*command, sql],
                    check=False,
                    capture_stdout=True,
                    capture_stderr=True,
                    env=environment,
                    deliver_cancel=_kill,
                )
                if done.returncode == 0:
                    self.confirmed.add(number)
            await trio.sleep_until(begin + _PROBE_PERIOD_S)


async def _kill(process: trio.Process) -> None:
    process.kill()


async def feed(site: Site, node: str, runs: set[Run]) -> None:
    """Upload run logs of a node at a steady rate until cancelled; record them in `runs`."""
    due = trio.current_time()
    number = 0
    while True:
        send = partial(site.send, node, number)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(send)
            runs.add((node, number))
        number += 1
        due = max(due + PERIOD_S, trio.current_time() - 1.0)
        await trio.sleep_until(due)


@dataclass(frozen=True, slots=True)
class Window:
    """The time of one failover, in seconds since the epoch.

    Attributes:
        kind: what happened.
        begin: when it began.
        end: when everything had worked again for a moment.
    """

    kind: str
    begin: float
    end: float

    def longest_gap(self, times: list[float]) -> float:
        """Return the longest time between two commits, in seconds."""
        within = [time for time in times if self.begin - 1 <= time <= self.end]
        return max((later - earlier for earlier, later in pairwise(within)), default=0.0)


async def fail_over(cluster: Cluster, kind: str, nodes: Sequence[str]) -> Window:
    """Let something happen to a healthy cluster, and wait until all writers go on."""
    await cluster.healthy()
    await _writing(cluster, nodes)
    begin = time.time()
    await FAILOVERS[kind].run(cluster)
    await _writing(cluster, nodes)
    return Window(kind, begin, time.time())


async def _writing(cluster: Cluster, nodes: Sequence[str]) -> None:
    """Wait until all writers have committed something from now on."""
    wrote = partial(_all_wrote, cluster, nodes, time.time())
    await eventually(wrote, patience=PATIENCE_S)


def _all_wrote(cluster: Cluster, nodes: Sequence[str], since: float) -> bool:
    try:
        return all(times[-1:] > [since] for times in commit_times(cluster, nodes).values())
    except RuntimeError:
        return False


def commit_times(cluster: Cluster, nodes: Sequence[str]) -> dict[str, list[float]]:
    """Return when what the database has was written, by node, and of the plain writer as ""."""
    recent = "(SELECT extract(epoch FROM {at}) FROM {table} {condition} ORDER BY 1)"
    found = {}
    for node in ("", *nodes):
        table, at = ("reportsexecution", "insertiondate") if node else ("plain", "at")
        condition = f"WHERE nodeid = '{node}'" if node else ""
        sql = recent.format(at=at, table=table, condition=condition)
        found[node] = [float(line) for line in cluster.psql(sql).split()]
    return found


def lost_rows(cluster: Cluster, writer: PlainWriter) -> int:
    """Return how many rows the plain writer was wrongly assured of."""
    stored = {int(line) for line in cluster.psql("SELECT number FROM plain").split()}
    return len(writer.confirmed - stored)


@asynccontextmanager
async def opened_writer(cluster: Cluster, url: str) -> AsyncIterator[PlainWriter]:
    """Let a plain writer write until the block ends."""
    writer = PlainWriter(cluster, url)
    await trio.to_thread.run_sync(writer.create)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        yield writer
        nursery.cancel_scope.cancel()
