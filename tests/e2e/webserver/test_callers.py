"""What the callers of the original send, with their own options, and what they get, byte by byte.

The callers are the agents' scripts around curl, the web application, and relays of the original.
Each request goes through four web servers: both shipped configurations, one that publishes what
Rudder's own configuration does, and relayd's own.
"""

import gzip
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.curl import POLICY_SERVER, USER, Reply
from tests.support.daemon import Daemon, Site, eventually, open_daemon
from tests.support.postgres import Database
from tests.support.shared import joined, lines, sha512
from tests.support.signing import SigningNode
from tests.support.webserver import Web, open_web

API = "/rudder/relay-api"
BASE = f"{API}/1"
#: The options that are always on; `Requests` adds the verification of the pin's place, `-k`.
AGENT = ("--tlsv1.3", "--location", "--fail", "--connect-timeout", "10", "--silent")
RELOADED = b'{"result":"success","action":"reloadConfiguration"}'

pytestmark = [
    pytest.mark.fault("F1", "F7"),
    pytest.mark.parametrize("kind", ["apache", "nginx", "rudder", "door"], indirect=True),
]


@pytest.fixture
def site(site: Site) -> Site:
    """Return a root server with everything that callers use."""
    folder = site.root / "folder"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "tool v1.bin").write_bytes(b"shared")
    agent = site.root / "agent"
    agent.write_text(f'#!/bin/sh\necho "$@" >> {site.root}/started\n')
    agent.chmod(0o755)
    site.extra |= {
        "shared_folder": f'path = "{folder}"',
        "shared_files": f'path = "{site.root / "files"}"',
        "remote_run": f'command = "{agent}"\nuse_sudo = false',
    }
    site.write()
    nodes = site.nodes_list.read_text()
    for node in site.nodes.values():
        digest = hashlib.sha256(public_key(node)).hexdigest()
        nodes = nodes.replace(
            f'"hostname": "{node.node_id}.test"',
            f'"hostname": "{node.node_id}.test", "key-hash": "sha256:{digest}"',
        )
    site.nodes_list.write_text(nodes)
    return site


def public_key(node: SigningNode) -> bytes:
    """Return what the hash of a key is the hash of."""
    return node.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pinned(web: Web) -> tuple[str, ...]:
    """Return the options by which an agent recognizes its server."""
    digest = hashlib.sha256(public_key(web.certificate)).digest()
    return (*AGENT, "--insecure", "--pinnedpubkey", f"sha256//{b64encode(digest).decode()}")


@pytest.fixture
async def daemon(web: Web, site: Site) -> AsyncIterator[Daemon]:
    """Yield relayd behind the web server, both running."""
    async with open_web(web), open_daemon(site) as daemon:
        yield daemon


async def agent(web: Web, path: str, *options: str, node: SigningNode | None = None) -> Reply:
    """Make a request as an agent: by its certificate, or by the password."""
    user = None if node else f"{USER}:{web.password}"
    return await web.curl(path, *pinned(web), *options, user=user, node=node)


async def test_callers_get_what_they_expect(
    web: Web, site: Site, daemon: Daemon, database: Database
) -> None:
    """Uploads, shared files and folder, remote runs and reloads work as with the original."""
    await upload_run_logs(web, site, daemon)
    assert database.query("SELECT count(*) FROM reportsexecution") == [("2",)]
    await upload_inventories(web, site)
    await share_a_file(web, site)
    await download_a_file(web, site)
    await start_agents(web, site)
    await reload(site)


async def upload_run_logs(web: Web, site: Site, daemon: Daemon) -> None:
    """Upload one run log with the password and one with the node's certificate."""
    file = web.own / "log.gz"
    for number, node in enumerate((None, site.nodes["node0"])):
        file.write_bytes(gzip.compress(site.run_log("node0", number)))
        path = f"/reports/{site.name('node0', number)}.gz"
        reply = await agent(web, path, "--upload-file", str(file), node=node)
        assert (reply.status, reply.exit_code) == (201, 0), (node, web.log())
    refused = await web.curl("/reports/x.log.gz", *pinned(web), "--upload-file", str(file))
    assert (refused.status, refused.exit_code) == (401, 22)
    await daemon.settled()
    assert site.refused() == {}


async def upload_inventories(web: Web, site: Site) -> None:
    """Upload inventory and signature, one after the other, to both places."""
    file = web.own / "inventory"
    for path, place, user in (
        ("inventories", "incoming", f"{USER}:{web.initial_password}"),
        ("inventory-updates", "accepted-nodes-updates", f"{USER}:{web.password}"),
    ):
        for name in ("node0.ocs.gz", "node0.ocs.gz.sign"):
            file.write_bytes(name.encode())
            options = (*pinned(web), "--upload-file", str(file))
            assert (await web.curl(f"/{path}/{name}", *options, user=user)).status == 201
            assert (site.root / "inventories" / place / name).read_bytes() == name.encode()


async def share_a_file(web: Web, site: Site) -> None:
    """Ask for a file by its hash, upload it, ask again; a relay of the original doubles a slash."""
    sender, content = site.nodes["node0"], b"content\n\nof a file\x00"
    body = web.own / "body"
    body.write_bytes(joined(lines(content, sender)) + b"\n" + content)
    path = f"{API}/shared-files/node1/node0/my.file"
    head = ("--head", "--output", "/dev/null")
    put = ("-X", "PUT", "--header", "Content-Type: application/octet-stream")
    asked = f"{path}?hash={sha512(content)}"
    assert (await agent(web, asked, *head)).status == 404
    sent = await agent(web, f"{path}?ttl=1d+2h", *put, "--data-binary", f"@{body}")
    assert (sent.status, sent.body, sent.exit_code) == (200, "", 0), sent
    assert (await agent(web, asked, *head)).status == 200
    assert (await agent(web, f"{path}?hash=00", *head)).status == 404
    if web.kind != "rudder":
        doubled = asked.replace("/rudder/relay-api", "//relay-api")
        assert (await agent(web, doubled, *head)).status == 200
    stored = site.root / "files" / "node1" / "files" / "node0" / "my.file"
    assert stored.read_bytes() == content


async def download_a_file(web: Web, site: Site) -> None:
    """Ask for a file of the shared folder by its hash, and get it."""
    node = site.nodes["node0"]
    path = f"{API}/shared-folder/files/tool%20v1.bin"
    current = hashlib.sha256(b"shared").hexdigest()
    head = ("--head", "--output", "/dev/null")
    for digest, status in ((current, 304), ("0" * 64, 200)):
        asked = f"{path}?hash={digest}&hash_type=sha256"
        assert (await agent(web, asked, *head, node=node)).status == status
    got = await agent(web, path, node=node)
    assert (got.status, got.body) == (200, "shared")
    lost = await agent(web, f"{API}/shared-folder/nothing", *head, node=node)
    assert (lost.status, lost.exit_code) == (404, 22)


async def start_agents(web: Web, site: Site) -> None:
    """Start one agent for each node, as the web application does, and as a policy server does."""
    fields = "classes=&keep_output=false&asynchronous=true"
    started = site.root / "started"
    url = f"http://127.0.0.1:{site.port}{BASE}/remote-run/nodes"
    for node in ("node0", "node1"):
        reply = await plain_curl(f"{url}/{node}", "--data", fields)
        assert reply == b"200 text/plain; charset=utf-8"
    await eventually(lambda: started.exists() and started.read_text().count("\n") == 2)
    begun = await web.curl(
        f"{API}/remote-run/nodes", "-d", f"{fields}&nodes=node2", source=POLICY_SERVER
    )
    assert (begun.status, begun.body) == (200, "")
    await eventually(lambda: started.read_text().count("\n") == 3)
    assert sorted(started.read_text().split("\n")[:3]) == [
        f"remote run -- {node}.test" for node in ("node0", "node1", "node2")
    ]


async def reload(site: Site) -> None:
    """Reload as `rudder relay reload` does, which compares the whole answer."""
    url = f"http://127.0.0.1:{site.port}{BASE}/system/reload"
    assert await plain_curl("-X", "POST", url) == b"200 application/json" + RELOADED


async def plain_curl(*options: str) -> bytes:
    """Return status, content type and body of a request to relayd itself."""
    command = ["curl", "-s", "-S", "-w", "%{stderr}%{http_code} %{content_type}", *options]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return done.stderr + done.stdout
