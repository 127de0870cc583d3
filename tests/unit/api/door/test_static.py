"""Files that agents read."""

import pytest

from tests.support.curl import POLICY_SERVER, STRANGER
from tests.support.front_door import open_client, open_door
from tests.support.webserver import Web


@pytest.fixture
def shared(web: Web) -> Web:
    """Return a front door with files to read."""
    for name in ("node0/rules/a b", "common/tool", "node1/secret"):
        path = web.own / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    (web.own / "share" / "common" / "link").symlink_to("../node1/secret")
    (web.own / "share" / "node0" / "out").symlink_to("/etc/hostname")
    (web.own / "share" / "node0" / "other").symlink_to("../node1/secret")
    return web


async def test_agents_read_their_files(shared: Web) -> None:
    """Own policies with the certificate, common files from the networks, the id from anywhere."""
    async with open_door(shared):
        async with open_client(shared, shared.nodes["node0"]) as node:
            found = await node.ask("GET", "/policies/node0/rules/a%20b")
            assert (found.status, found.body) == (200, b"content of node0/rules/a b")
            again = await node.ask(
                "GET",
                "/policies/node0/rules/a%20b",
                headers=f"If-None-Match: {found.headers['etag']}\r\n",
            )
            assert (again.status, again.body) == (304, b"")
            part = await node.ask("GET", "/common/tool", headers="Range: bytes=11-\r\n")
            assert (part.status, part.body) == (206, b"common/tool")
            for path, status in (
                ("/policies/node1/secret", 403),
                ("/policies/node0/../node1/secret", 403),
                ("/policies/node0/none", 404),
                ("/policies/node0/rules", 404),
                ("/policies/node0/out", 404),
                ("/policies/node0/other", 404),
                ("/common/link", 404),
            ):
                assert (await node.ask("GET", path)).status == status, path
        async with open_client(shared, source=POLICY_SERVER) as other:
            assert (await other.ask("HEAD", "/common/tool")).headers["content-length"] == "22"
            assert (await other.ask("PUT", "/common/tool", b"x")).status == 404
            assert (await other.ask("GET", "/policies/node0/rules/a%20b")).status == 403
        async with open_client(shared, source=STRANGER) as stranger:
            assert (await stranger.ask("GET", "/uuid")).body == b"root\n"
            assert (await stranger.ask("GET", "/common/tool")).status == 403
