"""A database that fails over under a real relayd, with and without held files."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from relayd.commands.demo.postgres.opening import Postgres
from tests.support.daemon import Site, make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.postgres import rows
from tests.support.replication import Pair, open_pair
from tests.support.stored import check_stored, stored_rows

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
@pytest.mark.parametrize("hold", ["0", "1min"])
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
    assert site.refused() == {}
