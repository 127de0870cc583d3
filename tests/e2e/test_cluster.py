"""Relayd on PostgreSQL under Patroni, etcd and HAProxy, as `conf/ha` configures them.

A single failover, which takes less time, is part of the demo's tests.
"""

import base64
import csv
import json
import os
import random
import re
import signal
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import trio

from relayd.commands.demo.cluster.cluster import Cluster, open_cluster
from relayd.commands.demo.cluster.failovers import FAILOVERS
from tests.support.clustered import (
    PATIENCE_S,
    Route,
    Window,
    commit_times,
    fail_over,
    feed,
    lost_rows,
    needs_guarded_leader,
    needs_programs,
    open_route,
    opened_writer,
)
from tests.support.daemon import Site, eventually, make_site, open_daemon
from tests.support.ledger import SEED, fleet
from tests.support.ports import free_port
from tests.support.stored import Run, check_stored, stored_rows

#: Seconds that relayd may need to notice what a program notices that connects for each row.
_NOTICE_S = 3.0
#: How often each kind of failover happens in a campaign.
_ROUNDS = int(os.environ.get("RELAYD_FAILOVER_ROUNDS", "1"))
NODES = ["node1", "node2"]
#: Patroni has seen a record that names another leader.
_NOTICED = re.compile(r"key updated by someone else|Inconsistent state of /sync key")


@pytest.fixture(autouse=True)
def programs() -> None:
    """Skip where the cluster's programs are not installed."""
    needs_programs()


def query(cluster: Cluster, sql: str) -> list[tuple[str, ...]]:
    """Run SQL on the primary."""
    return [tuple(row) for row in csv.reader(cluster.psql(sql).splitlines())]


def make_a_site(root: Path, cluster: Cluster, url: str, node: str, hold: str) -> Site:
    """Return a site of one node."""
    own = {"output.database": f'url = "{url}"\nhold = "{hold}"'}
    return make_site(root, cluster.rudder, fleet([node]), own)


@pytest.mark.torture
@pytest.mark.fault("D22", "L6")
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
@pytest.mark.parametrize("route", get_args(Route))
async def test_failovers_of_all_kinds(tmp_path: Path, route: Route, synchronous: bool) -> None:
    """Two relayds, one of them killed again and again, lose and double nothing."""
    if synchronous:
        needs_guarded_leader()
    async with open_cluster(synchronous=synchronous, free_port=free_port) as cluster:
        await cluster.configure(primary_start_timeout=0)
        hold = "0" if synchronous else "5min"
        failovers = [*FAILOVERS] * _ROUNDS
        await campaign(tmp_path, cluster, route, failovers, hold=hold, nodes=NODES)


@pytest.mark.torture
async def test_an_outdated_record_of_the_standby_is_put_right() -> None:
    """A record that names another leader is no longer there when the cluster is whole.

    Patroni 3.0.2 only complains about it, and `healthy` acts as an administrator would.
    """
    async with open_cluster(synchronous=True, free_port=free_port) as cluster:
        write_key(cluster, "sync", json.dumps({"leader": "db9", "sync_standby": None}))
        primary = await cluster.primary()
        log = primary.patroni.log
        await eventually(lambda: _NOTICED.search(log.read_text()) is not None, patience=PATIENCE_S)
        await cluster.healthy()
        assert await cluster.primary() is primary


def write_key(cluster: Cluster, name: str, value: str) -> None:
    """Change one of Patroni's keys in etcd, as another member would."""
    configuration = cluster.machines["db1"].data.with_name("patroni.yml").read_text()
    etcd = re.search(r"etcd3:\s+hosts:\s+- (\S+)", configuration)
    assert etcd is not None
    pair = {"key": f"/patroni/rudder/{name}", "value": value}
    body = {field: base64.b64encode(text.encode()).decode() for field, text in pair.items()}
    request = f"http://{etcd[1]}/v3/kv/put"
    with urllib.request.urlopen(request, json.dumps(body).encode(), timeout=10):
        pass


async def campaign(
    root: Path,
    cluster: Cluster,
    route: Route,
    failovers: Sequence[str],
    *,
    hold: str,
    nodes: Sequence[str],
) -> None:
    """Run one relayd for each node through failovers, all but the first killed on the way."""
    runs: set[Run] = set()
    with open_route(cluster, route) as (url, _):
        sites = [make_a_site(root / node, cluster, url, node, hold) for node in nodes]
        async with (
            opened_writer(cluster, url) as writer,
            open_daemon(sites[0]),
            trio.open_nursery() as nursery,
        ):
            for site, node in zip(sites, nodes, strict=True):
                nursery.start_soon(feed, site, node, runs)
            for site in sites[1:]:
                nursery.start_soon(run_and_kill, site)
            windows = [await fail_over(cluster, failover, nodes) for failover in failovers]
            nursery.cancel_scope.cancel()
        times = await trio.to_thread.run_sync(commit_times, cluster, nodes)
        lost = await trio.to_thread.run_sync(lost_rows, cluster, writer)
        report(windows, times, f"{route}, hold {hold}: plain writer lost {lost}")
        for site in sites:
            await drain(cluster, site, runs)
    check_stored(partial(query, cluster), runs)
    for window in windows:
        assert window.longest_gap(times[nodes[0]]) <= window.longest_gap(times[""]) + _NOTICE_S


async def run_and_kill(site: Site) -> None:
    """Run relayd, kill it after some seconds, and so on until cancelled."""
    pauses = random.Random(SEED)
    while True:
        async with open_daemon(site) as daemon:
            await trio.sleep(pauses.uniform(0.5, 6))
            await daemon.stop(signal.SIGKILL)


async def drain(cluster: Cluster, site: Site, runs: set[Run]) -> None:
    """Run relayd once more, until all run logs of its node are stored."""
    (node,) = site.nodes
    mine = {run for run in runs if run[0] == node}

    def missing() -> set[Run]:
        return mine - stored_rows(partial(query, cluster)).keys()

    async with open_daemon(site) as daemon:
        await daemon.settled()
        await eventually(lambda: not missing(), lambda: f"{len(missing())} run logs missing")
        await daemon.settled()
        assert await daemon.stop() == 0
    assert site.refused() == {}


def report(windows: Sequence[Window], times: dict[str, list[float]], title: str) -> None:
    """Print the figures of a campaign, which `pytest -s` shows."""
    print(f"\n{title}")
    for window in windows:
        gaps = (f"{name or 'plain'} {window.longest_gap(its):.1f} s" for name, its in times.items())
        print(f"  {window.kind}: without commits: {', '.join(gaps)}")
