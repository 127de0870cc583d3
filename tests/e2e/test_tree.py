"""A root server, a relay and a relay below it: what agents upload climbs up to the top."""

import gzip
import itertools
import os
import random
import signal
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from tests.support.daemon import Daemon, eventually, open_daemon
from tests.support.front import open_front, put
from tests.support.http import BASE
from tests.support.postgres import Database
from tests.support.remote_lines import run
from tests.support.signing import make_key_and_cert, rsa_key
from tests.support.stored import check_stored
from tests.support.tree import Member, Tree, make_tree, open_fronts, open_tree

NODES = ("node0", "node1", "node2")
RUN = "rudder_relayd_reports_total"
INVENTORY = "rudder_relayd_inventories_total"


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return the three members, written."""
    return make_tree(tmp_path, database.rudder)


async def send(tree: Tree, node: str, number: int) -> None:
    """Return a run log that the agent of a node uploads."""
    member = tree.home(node)
    name, data = member.name(node, number), member.run_log(node, number)
    if number % 2:
        name, data = f"{name}.gz", gzip.compress(data)
    status = await put(member.front(), f"/reports/{quote(name)}", data, member.password)
    assert status == 201


async def settled(tree: Tree) -> None:
    """Wait until no run log is in any spool."""
    # From below: a relay removes a file only when it is in the spool above.
    await eventually(lambda: not tree.waiting(), lambda: str(tree.waiting()))


async def test_run_logs_climb_up(tree: Tree, database: Database) -> None:
    """Run logs that agents upload at every level end as rows at the top, each exactly once."""
    async with open_tree(tree) as daemons:
        for number in range(20):
            for node in NODES:
                await send(tree, node, number)
        await settled(tree)
        for me, status, count in (
            ("sub", "forward_ok", 20),
            ("relay", "forward_ok", 40),
            ("root", "ok", 60),
        ):
            await daemons[me].idle()
            assert await daemons[me].metric(RUN, status=status) == count
    check_stored(database.query, {(node, number) for node in NODES for number in range(20)})
    assert tree.refused() == {}


async def campaign(tree: Tree, database: Database, victims: Sequence[Member]) -> None:
    """Kills members at random moments, one after the other, while agents upload."""
    moments = random.Random(7)
    sent: set[tuple[str, int]] = set()
    enough = trio.Event()

    async def keep_sending() -> None:
        for number in itertools.count():
            if enough.is_set():
                return
            for node in ("node1", "node2"):
                await send(tree, node, number)
                sent.add((node, number))
            await trio.sleep(0.02)

    async with open_fronts(tree), AsyncExitStack() as stack:
        others = {member.me: member for member in tree.members if member not in victims}
        for member in others.values():
            await stack.enter_async_context(open_daemon(member))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_sending)
            for member in victims:
                async with open_daemon(member) as daemon:
                    await trio.sleep(moments.uniform(0.0, 0.5))
                    assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
            enough.set()
        for member in tree.members:
            if member.me not in others:
                await stack.enter_async_context(open_daemon(member))
        await settled(tree)
    assert len(sent) > 20
    check_stored(database.query, sent)
    assert tree.refused() == {}


async def test_a_relay_killed_again_and_again(tree: Tree, database: Database) -> None:
    """A relay killed at any moment, on the way of run logs, loses nothing and doubles nothing."""
    await campaign(tree, database, [tree.relay] * 5)


@pytest.mark.torture
async def test_everybody_killed_again_and_again(tree: Tree, database: Database) -> None:
    """The same when any of the three is killed, and the others are mostly away."""
    await campaign(tree, database, random.Random(11).choices(tree.members, k=150))


async def test_a_relay_that_is_away(tree: Tree, database: Database) -> None:
    """Below a relay that is not there, web server and all, run logs wait; then they climb."""
    async with open_daemon(tree.root), open_daemon(tree.sub) as sub:
        async with open_front(tree.sub.front()):
            for number in range(5):
                await send(tree, "node2", number)
        await sub.saw("output unavailable; files wait")
        assert len(tree.sub.waiting()) == 5
        async with open_fronts(tree), open_daemon(tree.relay):
            await settled(tree)
    check_stored(database.query, {("node2", number) for number in range(5)})


def names(directory: Path) -> set[str]:
    """Names of the files of a directory, which may leave it meanwhile."""
    return {path.name for path in directory.iterdir()}


def content(directory: Path) -> dict[str, bytes]:
    """Names and bytes of the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.history(60)
async def test_inventories_climb_up_in_pairs(tree: Tree) -> None:
    """New and known nodes' inventories arrive at the top, byte for byte, each with its signature.

    They go where they belong there, and with the password that each kind has at each level.
    """
    places = {
        "inventories": ("incoming", "default_password"),
        "inventory-updates": ("accepted-nodes-updates", "password"),
    }
    expected: dict[str, dict[str, bytes]] = {}
    async with open_tree(tree) as daemons:
        for path, (place, password) in places.items():
            files = {}
            for extension in ("ocs", "ocs.gz", "xml", "xml.gz"):
                files[f"{path} of node2.{extension}"] = os.urandom(100_000)
                files[f"{path} of node2.{extension}.sign"] = b"signature of it"
            for name, data in files.items():
                url = f"/{path}/{quote(name)}"
                assert await put(tree.sub.front(), url, data, getattr(tree.sub, password)) == 201
            expected[place] = files

        def arrived() -> bool:
            return all(
                names(tree.root.inventories / place) == files.keys()
                for place, files in expected.items()
            )

        await eventually(arrived)
        for place, files in expected.items():
            assert content(tree.root.inventories / place) == files
            for member in (tree.relay, tree.sub):
                await eventually(lambda: not names(member.inventories / place))  # noqa: B023
        for me in ("relay", "sub"):
            await daemons[me].idle()
            assert await daemons[me].metric(INVENTORY, status="forward_ok") == 16
    for member in tree.members:
        assert content(member.inventories / "failed") == {}


async def reload(daemons: Iterable[Daemon]) -> None:
    """Make every one of them read what was written."""
    for daemon in daemons:
        assert (await daemon.post(f"{BASE}/system/reload"))[0] == 200


@pytest.mark.fault("U13")
@pytest.mark.history(57)
async def test_another_certificate_and_another_node(tree: Tree, database: Database) -> None:
    """A relay's new certificate, and a new node behind relays, need a reload and no restart."""
    async with AsyncExitStack() as stack:
        daemons = {
            member.me: await stack.enter_async_context(open_daemon(member))
            for member in tree.members
        }
        await stack.enter_async_context(open_front(tree.root.front()))
        await stack.enter_async_context(open_front(tree.sub.front()))
        async with open_front(tree.relay.front()):
            await send(tree, "node2", 0)
            await settled(tree)
        tree.certify("relay", make_key_and_cert("relay", key=rsa_key("relay's next key")))
        async with open_front(tree.relay.front()):
            await send(tree, "node2", 1)
            await daemons["sub"].saw("output unavailable; files wait")
            tree.add("node3", "sub")
            await reload(daemons.values())
            await send(tree, "node3", 2)
            await settled(tree)
            async with run(tree.root, "all") as lines:
                assert "node3.test: ends" in await lines.rest()
    check_stored(database.query, {("node2", 0), ("node2", 1), ("node3", 2)})
    assert tree.refused() == {}
