"""A database that fails over under a real relayd, with and without held files."""

import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.postgres.opening import Postgres
from tests.support.daemon import Site, eventually, make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.postgres import rows
from tests.support.replication import Pair, open_pair
from tests.support.stored import Run, check_stored, stored_rows

NODE = "node1"


@pytest.fixture
async def pair(tmp_path: Path, private_postgres: Postgres) -> AsyncIterator[Pair]:
    """Yield a primary and its asynchronous standby."""
    async with open_pair(Path(private_postgres.log_file).parent, private_postgres) as pair:
        yield pair


def make(root: Path, pair: Pair, hold: str) -> Site:
    """Return a site of one node whose database has two servers."""
    own = f'url = "{pair.url}"\nhold = "{hold}"'
    return make_site(root, pair.rudder, fleet([NODE]), {"output.database": own})


@pytest.mark.fault("D22")
@pytest.mark.parametrize("hold", [pytest.param("0", marks=pytest.mark.torture), "1min"])
async def test_commits_that_a_failover_takes_back(tmp_path: Path, pair: Pair, hold: str) -> None:
    """What the new primary never got is stored again, once; without a hold it is lost."""
    site = make(tmp_path, pair, hold)
    async with open_daemon(site) as daemon:
        for number in range(10):
            site.send(NODE, number)
        await daemon.settled()
        await pair.caught_up()
        await pair.cut()
        for number in range(10, 40):
            site.send(NODE, number)
        await daemon.settled()
        await pair.fail_over()
        for number in range(40, 50):
            site.send(NODE, number)
        await daemon.settled()
        query = partial(rows, pair.standby)
        if hold == "0":
            lost = {(NODE, number) for number in range(10, 40)}
            assert lost.isdisjoint(stored_rows(query))
            return
        await daemon.saw("held run logs were processed again files=40 missing=30")
        check_stored(query, {(NODE, number) for number in range(50)})
        assert await daemon.metric("rudder_relayd_held_missing_total") == 30
        assert await daemon.metric("rudder_relayd_held_files") == 50
        assert await daemon.metric("rudder_relayd_database_timeline") == 2
        assert await daemon.metric("rudder_relayd_database_connections_total") >= 2
        assert await daemon.metric("rudder_relayd_database_commit_wait_seconds_total") > 0
    assert site.refused() == {}


@pytest.mark.torture
@pytest.mark.fault("D22")
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_first_primary_comes_back(tmp_path: Path, pair: Pair, how: str) -> None:
    """What the new primary had when the old one took over again is stored there, once."""
    site = make(tmp_path, pair, "1min")
    async with open_daemon(site) as daemon:
        for number in range(10):
            site.send(NODE, number)
        await daemon.settled()
        await pair.cut()
        if how == "killed":
            pair.primary.kill()
        else:
            pair.primary.suspend()
        await pair.promote()
        for number in range(10, 40):
            site.send(NODE, number)
        await daemon.settled()
        await daemon.saw("held run logs were processed again")
        check_stored(partial(rows, pair.standby), {(NODE, number) for number in range(40)})
        pair.standby.kill()
        if how == "killed":
            await trio.to_thread.run_sync(pair.primary.start)
        else:
            pair.primary.resume()
        seen = len(daemon.lines)
        for number in range(40, 50):
            site.send(NODE, number)
        await daemon.saw("held run logs were processed again.*missing=30", since=seen)
        await daemon.settled()
        check_stored(partial(rows, pair.primary), {(NODE, number) for number in range(50)})
    assert site.refused() == {}


@pytest.mark.fault("D22", "L6")
async def test_killed_throughout_a_failover(tmp_path: Path, pair: Pair) -> None:
    """Relayd that is killed before, in and after a failover loses and doubles nothing."""
    site = make(tmp_path, pair, "1min")
    runs: set[Run] = set()

    async def work(*, failing: bool = False) -> None:
        """Send run logs, and kill relayd while it has some of them."""
        for _ in range(20):
            run = (NODE, len(runs))
            site.send(*run)
            runs.add(run)
        async with open_daemon(site) as daemon:
            await eventually(lambda: len(list(site.held.glob("*/*"))) > 5)
            if failing:
                await pair.fail_over()
                await daemon.saw("output unavailable; files wait|processing again")
            await daemon.stop(signal.SIGKILL)

    await work()
    await pair.caught_up()
    await pair.cut()
    await work()
    await work(failing=True)
    await work()
    query = partial(rows, pair.standby)
    async with open_daemon(site) as daemon:
        await eventually(lambda: len(stored_rows(query)) == len(runs))
        await daemon.settled()
        await eventually(lambda: len(list(site.held.glob("*/*"))) == len(runs))
        assert await daemon.stop() == 0
    check_stored(query, runs)
    assert site.refused() == {}
