"""Run logs from the spool into the database, by a real relayd process."""

from pathlib import Path

from tests.support.daemon import make_site, open_daemon
from tests.support.postgres import Database
from tests.support.signing import make_key_and_cert


async def test_run_logs_become_rows(tmp_path: Path, database: Database) -> None:
    """Signed run logs are inserted whole, in order, with their executions; the spool is empty."""
    nodes = {f"node{i}": make_key_and_cert(f"node{i}") for i in range(3)}
    site = make_site(tmp_path, database.rudder, nodes)
    async with open_daemon(site) as daemon:
        for number in range(4):
            for node_id in nodes:
                site.send(node_id, number)
        await daemon.settled()
        assert await daemon.stop() == 0
    assert database.query("SELECT count(*) FROM ruddersysevents") == [("72",)]
    assert database.query("SELECT count(*) FROM reportsexecution") == [("12",)]
    assert site.refused() == {}
