"""relayd killed at any moment: whatever happens, each run log ends in one place, once."""

import random
import signal
from pathlib import Path

import pytest
import trio

from tests.support.daemon import Site, make_site, open_daemon
from tests.support.ledger import Ledger, fleet
from tests.support.postgres import Database

SEED = 20_260_301


@pytest.fixture
def site(tmp_path: Path, database: Database) -> Site:
    """A root server with three nodes."""
    return make_site(tmp_path, database.rudder, fleet())


async def campaign(site: Site, database: Database, kills: int) -> None:
    """Kills relayd at random moments of its start and of its work, while uploads go on."""
    ledger = Ledger(site, SEED)
    moments = random.Random(SEED)
    site.incoming.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep_sending)
        for _ in range(kills):
            # Without work a start takes about half a second: three kills of four hit work.
            ready = "started" if moments.random() < 0.75 else None
            async with open_daemon(site, ready=ready) as daemon:
                await trio.sleep(moments.uniform(0.0, 0.5))
                assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        nursery.cancel_scope.cancel()
    async with open_daemon(site) as daemon:
        await daemon.settled()
        assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.mark.fault("L6")
async def test_killed_at_random_under_load(site: Site, database: Database) -> None:
    """After 50 kills each run log is in the database once, and only bad ones are in `failed`."""
    await campaign(site, database, 50)


@pytest.mark.torture
@pytest.mark.fault("L6")
async def test_killed_at_random_500_times(site: Site, database: Database) -> None:
    """The same after 500 kills."""
    await campaign(site, database, 500)
