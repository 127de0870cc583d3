"""A database that is away, dying, silent, slow or wrong, under a real relayd."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from relayd.commands.demo.postgres.opening import Postgres
from relayd.commands.demo.postgres.server import StopMode
from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine
from tests.support.daemon import Daemon, Site, eventually, make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.postgres import Database, rows
from tests.support.proxy import (
    BlackHole,
    Delay,
    Fault,
    Link,
    LoseReply,
    LoseRequest,
    Way,
    open_proxy,
)
from tests.support.runlogs import joined, report
from tests.support.signing import sign_runlog
from tests.support.stored import Run, check_stored, stored_executions, stored_rows

NODE = "node1"
STATUS = "/rudder/relay-api/1/system/status"
INFO = "/rudder/relay-api/1/system/info"


pytestmark = pytest.mark.site(nodes=[NODE])


@pytest.fixture
def fragile(tmp_path: Path, private_postgres: Postgres) -> Site:
    """Return a site of one node with a server of its own."""
    return make_site(tmp_path, private_postgres.rudder, fleet([NODE]))


async def database_status(daemon: Daemon) -> dict[str, Any]:
    """Return what the API says of the database."""
    _, body = await daemon.get(STATUS)
    answer: dict[str, Any] = json.loads(body)["data"]["database"]
    return answer


def send_aged(site: Site, number: int) -> Run:
    """Upload a run log that is eight days old, older than the retention."""
    path = site.incoming / site.send(NODE, number)
    os.utime(path, (path.stat().st_mtime - 8 * 86_400,) * 2)
    return (NODE, number)


@pytest.mark.fault("D1")
async def test_absent_at_start(fragile: Site, private_postgres: Postgres) -> None:
    """Without database relayd comes up, says so, keeps every file, and goes on by itself."""
    private_postgres.kill()
    runs = {send_aged(fragile, number) for number in range(3)}
    async with open_daemon(fragile) as daemon:
        assert (await daemon.get(INFO))[0] == 200
        await daemon.saw("ERROR database: output unavailable; files wait")
        assert (await database_status(daemon))["status"] == "error"
        assert await daemon.metric("rudder_relayd_database_up") == 0
        runs |= {(NODE, number) for number in range(3, 20)}
        names = [fragile.send(NODE, number) for number in range(3, 20)]
        assert await daemon.stop() == 0
    assert len(fragile.waiting()) == len(runs)
    assert set(names) <= set(fragile.waiting())
    async with open_daemon(fragile) as daemon:
        await daemon.saw("ERROR database: output unavailable; files wait")
        await private_postgres.start()
        await daemon.settled()
        assert (await database_status(daemon))["status"] == "success"
        assert await daemon.metric("rudder_relayd_database_up") == 1
    check_stored(partial(rows, private_postgres.server), runs)
    assert fragile.refused() == {}


class Spot(Fault):
    """Reports when a request with these bytes has just been passed on."""

    def __init__(self, wanted: bytes) -> None:
        super().__init__()
        self._wanted = wanted

    async def transfer(self, link: Link, way: Way, data: bytes) -> None:
        """Pass everything on."""
        await link.send(way, data)
        if way == "request" and self._wanted in data:
            self.struck.set()


class Traffic:
    """Run logs that keep coming."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runs: set[Run] = set()

    async def run(self) -> None:
        """Send them until it is cancelled."""
        while True:
            for _ in range(3):
                run = (NODE, len(self.runs))
                self.site.send(*run)
                self.runs.add(run)
            await trio.sleep(0.005)


@asynccontextmanager
async def open_traffic(site: Site) -> AsyncIterator[set[Run]]:
    """Send run logs as long as the block lasts; yields the set of all that were sent."""
    traffic = Traffic(site)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.run)
        yield traffic.runs
        nursery.cancel_scope.cancel()


@pytest.mark.fault("D2")
@pytest.mark.parametrize(
    "kills", [12, pytest.param(200, marks=[pytest.mark.torture, pytest.mark.timeout(1200)])]
)
async def test_killed_in_mid_transaction(
    fragile: Site, private_postgres: Postgres, kills: int
) -> None:
    """A server killed at any step of a transaction costs nothing; work goes on once it is back."""
    async with open_proxy(fragile.database.host, fragile.database.port) as proxy:
        fragile.database = replace(fragile.database, port=proxy.port)
        fragile.write_conf()
        async with open_daemon(fragile) as daemon:
            async with open_traffic(fragile) as runs:
                for kill in range(kills):
                    proxy.fault = spot = Spot((b"BEGIN", b"COPY ", b"COMMIT")[kill % 3])
                    seen = len(daemon.lines)
                    with trio.fail_after(30):
                        await spot.struck.wait()
                    private_postgres.kill()
                    await daemon.saw("output unavailable; files wait", since=seen)
                    await private_postgres.start()
                    # Five seconds are promised; a busy machine gets some more.
                    with trio.fail_after(20):
                        await daemon.saw("output available again", since=seen)
            await daemon.settled()
    check_stored(partial(rows, private_postgres.server), runs)
    assert fragile.refused() == {}


@pytest.mark.fault("D3")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_restarted_while_files_arrive(
    fragile: Site, private_postgres: Postgres, mode: StopMode
) -> None:
    """A server that an operator stops and starts costs nothing; relayd connects again."""
    async with open_daemon(fragile) as daemon:
        async with open_traffic(fragile) as runs:
            for _ in range(3):
                seen = len(daemon.lines)
                await private_postgres.stop(mode)
                await daemon.saw("output unavailable; files wait", since=seen)
                await private_postgres.start()
                await daemon.saw("output available again", since=seen)
        await daemon.settled()
    check_stored(partial(rows, private_postgres.server), runs)


@pytest.mark.fault("D6", "A21")
@pytest.mark.history(34)
async def test_silent_server(fragile: Site, private_postgres: Postgres) -> None:
    """While the server hangs, status says so in time, refused files are moved, nothing is lost."""
    async with open_daemon(fragile) as daemon:
        fragile.send(NODE, 0)
        await daemon.settled()
        private_postgres.suspend()
        name = fragile.send(NODE, 1)
        fragile.upload("bob.log", b"x")
        fragile.upload(fragile.name(NODE, 2), b"no signature")
        await eventually(lambda: fragile.waiting() == [name])
        # Two seconds are promised; the daemon's own deadline is what answers.
        with trio.fail_after(10):
            answer = await database_status(daemon)
        assert answer["status"] == "error"
        assert "time" in answer["details"]
        assert fragile.waiting() == [name]
        private_postgres.resume()
        await daemon.settled()
    check_stored(partial(rows, private_postgres.server), {(NODE, 0), (NODE, 1)})
    assert fragile.refused() == {"bob.log": "bad_name", fragile.name(NODE, 2): "mime"}


@pytest.mark.fault("D9", "F23")
def test_server_on_a_full_disk() -> None:
    """A server without space keeps files waiting; they go in once there is space again."""
    alone = ["unshare", "--mount"]
    if os.geteuid():
        alone += ["--user", "--map-current-user", "--keep-caps"]
    probe = subprocess.run([*alone, "true"], check=False, capture_output=True, timeout=30)
    if probe.returncode:
        pytest.skip("this system allows no mount namespaces")
    # Not below pytest's directory, which the server's account cannot reach.
    with tempfile.TemporaryDirectory(prefix="relayd-full-") as directory:
        Path(directory).chmod(0o755)
        command = [*alone, sys.executable, "-m", "tests.support.full_disk", directory]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fault("F5", "F23")
async def test_sequence_behind_the_table(site: Site, database: Database) -> None:
    """Run logs wait and the status says why, although the database answers; then all go in."""
    site.send(NODE, 0)
    async with open_daemon(site) as daemon:
        await daemon.settled()
        # Each attempt draws some numbers, so a gap of a few would close by itself.
        database.query(
            "INSERT INTO ruddersysevents SELECT g, now(), 'x', 'x', 'x', 'x', 'x', 'x', now()"
            " FROM generate_series(110, 3000) AS g"
        )
        names = [site.send(NODE, number) for number in range(1, 6)]
        await daemon.saw("ERROR database: output unavailable; files wait.*sqlstate=23505")
        answer = await database_status(daemon)
        assert answer["status"] == "error"
        assert "the tables refuse every run log: duplicate key value" in answer["details"]
        assert await daemon.metric("rudder_relayd_database_up") == 0
        assert site.waiting() == sorted(names)
        database.query("SELECT setval('serial', (SELECT max(id) FROM ruddersysevents))")
        await daemon.settled()
        assert (await database_status(daemon))["status"] == "success"
    database.query("DELETE FROM ruddersysevents WHERE nodeid = 'x'")
    check_stored(database.query, {(NODE, number) for number in range(6)})
    assert site.refused() == {}


@pytest.mark.fault("F5", "F14")
async def test_what_the_tables_refused_comes_back(site: Site, database: Database) -> None:
    """Repaired tables get what they had refused, and what a relayd without this knowledge did."""
    old = site.name(NODE, 0)
    site.send(NODE, 0)
    refused = Refused(Reason.DATABASE, "duplicate key (SQLSTATE 23505)")
    quarantine(site.incoming, site.failed, RefusedFile(old, None, refused, NODE, "sha256:old"))
    database.query("ALTER TABLE ruddersysevents ADD CONSTRAINT own CHECK (component = 'start')")
    database.query("ALTER TABLE reportsexecution DROP CONSTRAINT reportsexecution_pkey")
    async with open_daemon(site) as daemon:
        site.send(NODE, 1)
        await daemon.saw("run logs refused by other tables are retried files=1")
        await daemon.saw("file stays.*SQLSTATE 23514")
        answer = await database_status(daemon)
        assert answer["status"] == "error"
        assert "23514" in answer["details"] or "own" in answer["details"]
        assert site.refused() == {}
        database.query("ALTER TABLE ruddersysevents DROP CONSTRAINT own")
        await daemon.settled()
    assert site.refused() == {}
    assert stored_executions(database.query) == {(NODE, number): 1 for number in range(2)}


@pytest.mark.fault("D11")
async def test_wrong_password(site: Site, database: Database) -> None:
    """A wrong password is logged once and shown nowhere; corrected and reloaded, work goes on."""
    wrong = "wrong-canary"
    site.database = replace(database.rudder, password=wrong)
    site.write_conf()
    async with open_daemon(site) as daemon:
        names = [site.send(NODE, number) for number in range(3)]
        await daemon.saw("ERROR database: .*password authentication failed.*sqlstate=28P01")
        seen = len(daemon.lines)
        await daemon.saw("output still unavailable", since=seen)
        answer = await database_status(daemon)
        assert answer["status"] == "error"
        assert "password authentication failed" in answer["details"]
        assert site.waiting() == sorted(names)
        site.database = database.rudder
        site.write_conf()
        daemon.process.send_signal(1)
        await daemon.settled()
        errors = [line for line in daemon.lines if " ERROR " in line]
        assert len(errors) == 1
        for secret in (wrong, database.rudder.password):
            assert secret not in "\n".join([*daemon.lines, str(answer)])
    check_stored(database.query, {(NODE, number) for number in range(3)})


@pytest.mark.fault("D12")
async def test_report_with_an_empty_field(site: Site, database: Database) -> None:
    """Reports that a table rule would refuse are dropped with a warning, the others are stored."""
    text = joined(
        report(event="control", component="start", key="config-1"),
        report("kept 1"),
        report("dropped", component=""),
        report("dropped", rule=""),
        report("dropped", directive=""),
        report("kept 2"),
        report(event="control", component="end", key="config-1"),
    )
    async with open_daemon(site) as daemon:
        site.upload(site.name(NODE), sign_runlog(text, site.nodes[NODE]))
        await daemon.settled()
        await daemon.saw(r"WARN  examine: run log has flaws.*flaws=3.*node=node1")
    stored = database.query("SELECT component, msg FROM ruddersysevents ORDER BY id")
    assert [(a, b) for a, b in stored if a == "Package"] == [
        ("Package", "kept 1"),
        ("Package", "kept 2"),
    ]
    assert len(stored) == 4
    assert stored_executions(database.query) == {(NODE, 0): 1}
    assert site.refused() == {}


async def test_one_bad_run_log_in_a_batch(site: Site, database: Database) -> None:
    """A run log that the database refuses goes to `failed` with its SQLSTATE, its batch goes in."""
    database.query(
        "ALTER TABLE ruddersysevents ADD CONSTRAINT ruddersysevents_ruleid_check1"
        " CHECK (msg NOT LIKE '%poison%')"
    )
    good = {(NODE, number) for number in range(30) if number % 13}
    for run in good:
        site.send(*run)
    bad = {site.name(NODE, number) for number in range(30) if number % 13 == 0}
    for name in bad:
        start = name.partition("@")[0].replace("T", " ")
        text = joined(report(start=start), report("poison", start=start))
        site.upload(name, sign_runlog(text, site.nodes[NODE]))
    async with open_daemon(site) as daemon:
        await daemon.settled()
        await daemon.saw("refused, moved to failed reason=database.*SQLSTATE 23514")
    check_stored(database.query, good)
    assert site.refused() == dict.fromkeys(bad, "database")


@pytest.mark.fault("D17")
async def test_two_daemons_with_the_same_run_logs(
    site: Site, database: Database, tmp_path: Path
) -> None:
    """Two relayd that get the same run logs at the same time store each of them once."""
    other = make_site(tmp_path / "other", database.rudder, site.nodes)
    async with open_daemon(site) as one, open_daemon(other) as two:
        # Half of them have no `start` report: no key of any table tells these apart.
        files = {
            site.name(NODE, number): site.run_log(NODE, number, partial=bool(number % 2))
            for number in range(200)
        }
        for name, data in files.items():
            site.upload(name, data)
            other.upload(name, data)
        await one.settled()
        await two.settled()
        for metric in ("reports_rows_total", "duplicates_total"):
            counts = [await daemon.metric(f"rudder_relayd_{metric}") for daemon in (one, two)]
            assert sum(counts) == (1200 if metric == "reports_rows_total" else 200)
    assert stored_rows(database.query) == {(NODE, number): 6 for number in range(200)}
    assert stored_executions(database.query) == {(NODE, number): 1 for number in range(0, 200, 2)}


@pytest.mark.fault("D23")
async def test_slow_statements(site: Site, database: Database) -> None:
    """While each statement takes its time, the API answers, and the run logs get in."""
    async with open_proxy(site.database.host, site.database.port) as proxy:
        site.database = replace(site.database, port=proxy.port)
        site.write_conf()
        async with open_daemon(site) as daemon:
            site.send(NODE, 0)
            await daemon.settled()
            proxy.fault = slow = Delay(0.4)
            for number in range(1, 4):
                site.send(NODE, number)
            await slow.struck.wait()
            answers = 0
            while site.waiting():
                assert (await daemon.get(INFO))[0] == 200
                answers += 1
        # Were each statement in the API's way, there would be one answer for each.
        assert answers > 30
    check_stored(database.query, {(NODE, number) for number in range(4)})


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(LoseReply, marks=pytest.mark.fault("D4")),
        pytest.param(LoseRequest, marks=pytest.mark.fault("D5")),
    ],
)
async def test_lost_commit(
    site: Site, database: Database, kind: type[LoseReply] | type[LoseRequest]
) -> None:
    """A commit whose request or answer is lost leaves one copy and an empty spool."""
    async with open_proxy(site.database.host, site.database.port) as proxy:
        site.database = replace(site.database, port=proxy.port)
        site.write_conf()
        async with open_daemon(site) as daemon:
            proxy.fault = lost = kind(lambda seen: b"COMMIT" in seen)
            for number in range(40):
                site.send(NODE, number)
            await lost.struck.wait()
            proxy.fault = Fault()
            await daemon.settled()
    check_stored(database.query, {(NODE, number) for number in range(40)})
    assert site.refused() == {}


@pytest.mark.fault("D6")
async def test_black_hole(site: Site, database: Database) -> None:
    """A connection on which nothing passes any more is given up, and a new one is used."""
    async with open_proxy(site.database.host, site.database.port) as proxy:
        site.database = replace(site.database, port=proxy.port)
        site.write_conf()
        async with open_daemon(site) as daemon:
            proxy.fault = hole = BlackHole()
            site.send(NODE, 0)
            await hole.struck.wait()
            await daemon.saw("output unavailable; files wait.*in time")
            proxy.fault = Fault()
            await daemon.settled()
    check_stored(database.query, {(NODE, 0)})
