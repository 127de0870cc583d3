"""The commands of `relayd queue` on a running relayd, and while it does not run."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from relayd.commands.demo.postgres.opening import Postgres
from tests.support.daemon import Site, eventually, make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.postgres import Database, rows
from tests.support.stored import stored_executions

NODES = ["node1", "node2"]


def queue(site: Site, *words: str, group: str = "queue") -> tuple[int, str]:
    """Run a command; return exit code and what it prints."""
    command = [sys.executable, "-m", "relayd", group, *words, "-c", str(site.conf)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.site(nodes=NODES)
async def test_operators_hold_release_and_drop_through_the_socket(
    site: Site, database: Database
) -> None:
    """Held while relayd does not run, and as files arrive; released in order; each stored once."""
    site.incoming.mkdir(parents=True, exist_ok=True)
    first = site.send("node1", 0)
    assert queue(site, "list", "--json")[1].count(first) == 2
    code, text = queue(site, "hold", "--node", "node1")
    assert (code, text.splitlines()[0]) == (
        0,
        "held 1 file of node1.test; release them with: relayd queue release --node node1.test",
    )
    async with open_daemon(site) as daemon:
        second = site.send("node1", 1)
        site.send("node2", 1)
        on_hold = site.root / "reports" / "on-hold" / "incoming"
        await eventually((on_hold / second).exists)
        await eventually(lambda: stored_executions(database.query) == {("node2", 1): 1})
        code, text = queue(site, "list", "--json")
        files = [json.loads(line) for line in text.splitlines()]
        assert [(file["name"], file["state"]) for file in files] == [
            (first, "held"),
            (second, "held"),
        ]
        assert "2 files on hold" in queue(site, "shape")[1]
        assert queue(site, "release", second)[0] == 1  # its node is on hold
        code, text = queue(site, "release", "--node", "node1")
        assert (code, text.splitlines()[0].partition(";")[0]) == (
            0,
            "released 2 files of node1.test",
        )
        await daemon.settled()
        assert stored_executions(database.query) == {
            ("node1", 0): 1,
            ("node1", 1): 1,
            ("node2", 1): 1,
        }
        await daemon.saw(r'operation action="queue release" count=2 user=\S+ .*node1')
        assert queue(site, "retry", "--all")[0] == 0
        bad = site.name("node2", 2)
        site.upload(bad, b"no message")
        await eventually((site.failed / bad).exists)
        assert "1 file would be refused again" in queue(site, "replay", bad, group="failed")[1]
        code, text = queue(site, "drop", bad, "--yes", group="failed")
        assert (code, text) == (0, "1 file removed\n")
        await daemon.saw(r'operation action="failed drop" count=1')
        site.control.unlink()  # type: ignore[union-attr]
        code, text = queue(site, "drop", "--all", "--yes")
        assert code == 3
        assert "works on the spool, but cannot be asked" in text
        assert len(text.splitlines()) == 1


async def test_in_an_outage_of_the_database_operators_have_what_is_in_flight(
    tmp_path: Path, private_postgres: Postgres
) -> None:
    """A node is held and another's files are dropped meanwhile; the rest is stored afterwards."""
    site = make_site(tmp_path, private_postgres.rudder, fleet([*NODES, "node3"]))
    private_postgres.kill()
    async with open_daemon(site) as daemon:
        for number in range(12):
            for node in (*NODES, "node3"):
                site.send(node, number)
        await daemon.saw("ERROR database: output unavailable; files wait")
        await eventually(lambda: queue(site, "list", "--json")[1].count('"in_flight"') == 36)
        code, text = queue(site, "hold", "--node", "node1", "--dry-run")
        assert (code, text.splitlines()) == (
            1,
            [
                "would have held no file of node1.test",
                "12 files in flight: taken back, unless just being sent",
            ],
        )
        code, text = queue(site, "drop", "--node", "node2")
        assert (code, text.partition(" See")[0]) == (
            3,
            "error: there is no terminal to ask at; use --yes.",
        )
        assert len(text.splitlines()) == 1
        code, text = queue(site, "hold", "--node", "node1")
        assert (code, text.partition(";")[0]) == (0, "held 12 files of node1.test")
        code, text = queue(site, "drop", "--yes", "--node", "node2")
        assert (code, text) == (0, "dropped 12 files of 1 node\n")
        await private_postgres.start()
        await daemon.settled()
        stored = partial(stored_executions, partial(rows, private_postgres.server))
        assert stored() == {("node3", number): 1 for number in range(12)}
        assert queue(site, "release", "--node", "node1")[0] == 0
        await daemon.settled()
        assert stored() == {(node, n): 1 for node in ("node1", "node3") for n in range(12)}
