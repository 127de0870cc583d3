"""A root server and two relays, each behind a real web server."""

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.curl import POLICY_SERVER, USER
from tests.support.daemon import Daemon, eventually, open_daemon
from tests.support.postgres import Database
from tests.support.shared import sha512, upload
from tests.support.stored import check_stored
from tests.support.tree import HOSTS, Tree, make_tree
from tests.support.webserver import Kind, Web, open_web, write_web

API = "/rudder/relay-api"
#: Directory and password of each path for inventories.
PLACES = {
    "inventories": ("incoming", "default_password"),
    "inventory-updates": ("accepted-nodes-updates", "password"),
}
#: Who starts the agent of each machine.
RUN_BY = {
    "root": "root",
    "relay": "root",
    "node0": "root",
    "sub": "relay",
    "node1": "relay",
    "node2": "sub",
}


@pytest.fixture
def tree(place: Path, database: Database) -> Tree:
    """Return the three members, written."""
    return make_tree(place, database.rudder)


@pytest.fixture
def webs(kind: Kind, tree: Tree) -> dict[str, Web]:
    """Their web servers by node id, not started."""
    return {
        member.me: write_web(
            Web(
                kind,
                member.root,
                member.port,
                tree.nodes,
                certificate=member.identity,
                host=member.host,
                port=member.https_port,
                password=member.password,
                initial_password=member.default_password,
            ),
            member,
        )
        for member in tree.members
    }


@asynccontextmanager
async def open_all(tree: Tree, webs: dict[str, Web]) -> AsyncIterator[dict[str, Daemon]]:
    """Run the three web servers and the three relayd; the latter by node id."""
    async with AsyncExitStack() as stack:
        for web in webs.values():
            await stack.enter_async_context(open_web(web))
        yield {
            member.me: await stack.enter_async_context(open_daemon(member))
            for member in tree.members
        }


async def send_run_logs(tree: Tree, webs: dict[str, Web]) -> set[tuple[str, int]]:
    """Upload run logs to each server; node and number of each."""
    sent = {(node, number) for node in ("node0", "node1", "node2") for number in range(5)}
    for node, number in sorted(sent):
        member = tree.home(node)
        path = f"/reports/{quote(member.name(node, number))}"
        assert (await webs[member.me].upload(path, member.run_log(node, number))).status == 201
    return sent


async def send_inventories(tree: Tree, web: Web) -> dict[Path, bytes]:
    """Upload a new and a known node's inventory to the sub; what has to be at the top."""
    expected = {}
    for path, (place, password) in PLACES.items():
        user = f"{USER}:{getattr(tree.sub, password)}"
        for name, data in (("node é.ocs.gz", os.urandom(3_000_000)), ("node é.ocs.gz.sign", b"s")):
            assert (await web.upload(f"/{path}/{quote(name)}", data, user)).status == 201
            expected[tree.root.inventories / place / name] = data
    return expected


@pytest.mark.history(47, 59, 60)
async def test_uploads_climb_up_and_remote_runs_reach_every_server(
    tree: Tree, webs: dict[str, Web], database: Database
) -> None:
    """Run logs of every level end as rows once, inventories arrive whole, each by its password.

    Agents of all levels are started from the top, and their output comes as it is made.
    """
    async with open_all(tree, webs) as daemons:
        sent = await send_run_logs(tree, webs)
        inventories = await send_inventories(tree, webs["sub"])
        await eventually(lambda: all(path.exists() for path in inventories))
        await eventually(lambda: not tree.waiting(), lambda: str(tree.waiting()))
        for member in (tree.relay, tree.sub):
            await eventually(lambda: not list(member.inventories.glob("*/[!.]*")))  # noqa: B023
        for me, count in (("sub", 5), ("relay", 10)):
            name = "rudder_relayd_reports_total"
            await daemons[me].idle()
            assert await daemons[me].metric(name, status="forward_ok") == count
        await run_agents(tree, webs)
    check_stored(database.query, sent)
    assert tree.refused() == {}
    assert {path: path.read_bytes() for path in inventories} == inventories


async def run_agents(tree: Tree, webs: dict[str, Web]) -> None:
    """Start agents of all levels; a line passes three web servers before the next is made."""
    everywhere = ("-d", "keep_output=true")
    at_once = ("-d", "asynchronous=true", "-d", "keep_output=true", "--compressed")
    top = partial(webs["root"].follow, source=POLICY_SERVER)
    async with top(f"{API}/remote-run/all", *everywhere) as lines:
        assert Counter(await lines.rest()) == Counter(
            line
            for node, relay in RUN_BY.items()
            for line in (
                f"{HOSTS.get(node, f'{node}.test')}: begins, started by {relay}",
                f"{HOSTS.get(node, f'{node}.test')}: ends",
            )
        )
    hold = tree.sub.hold_agent()
    async with top(f"{API}/remote-run/nodes/node2", *at_once) as lines:
        assert await lines.next() == "node2.test: begins, started by sub"
        await hold.release()
        assert await lines.rest() == ["node2.test: ends"]


@pytest.mark.fault("F7")
@pytest.mark.parametrize("kind", ["apache", "nginx", "rudder", "door"], indirect=True)
async def test_shared_files_go_up(tree: Tree, webs: dict[str, Web]) -> None:
    """A file for a node of another branch is kept at the top; its hash is asked for on that way."""
    content = os.urandom(200_000)
    path = f"{API}/shared-files/node0/node2/a.file_1"
    body = webs["sub"].own / "shared"
    body.write_bytes(upload(content, tree.nodes["node2"]))
    async with open_all(tree, webs):
        put = ("--upload-file", str(body))
        assert (await webs["sub"].curl(f"{path}?ttl=1%20day", *put)).status == 200
        stored = tree.root.shared_files / "node0" / "files" / "node2" / "a.file_1"
        assert stored.read_bytes() == content
        known = await webs["sub"].curl(f"{path}?hash={sha512(content)}", "--head")
        other = await webs["sub"].curl(f"{path}?hash={sha512(b'other')}", "--head")
        assert (known.status, other.status) == (200, 404)


async def test_shared_folder_is_read_with_a_certificate(tree: Tree, webs: dict[str, Web]) -> None:
    """A node gets a file of its server's folder whole; relayd's own pages it does not get."""
    folder = tree.relay.root / "folder"
    folder.mkdir()
    data = os.urandom(2_000_000).hex()
    (folder / "a file.txt").write_text(data)
    tree.relay.extra["shared_folder"] = f'path = "{folder}"'
    tree.relay.write()
    web, node = webs["relay"], tree.nodes["node1"]
    async with open_web(web), open_daemon(tree.relay) as daemon:
        url = f"{API}/shared-folder/a%20file.txt"
        reply = await web.curl(url, node=node)
        assert (reply.status, reply.body) == (200, data)
        assert (await web.curl(url)).status == 403
        assert (await web.curl(f"{API}/shared-folder/none", node=node)).status == 404
        for up in ("..%2f", "%2e%2e/", "..%5c", ".%252e/"):
            climbing = f"{API}/shared-folder/{up}{web.root.name}/etc/main.conf"
            assert (await web.curl(climbing, node=node)).status in (400, 403, 404)
        for path in ("/rudder/relay-api/1/system/status", "/metrics"):
            assert (await daemon.get(path))[0] == 200
            assert (await web.curl(path, node=node, source=POLICY_SERVER)).status == 403
