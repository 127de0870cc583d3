"""A real relayd answers every kind of request although parts of its libraries are not loaded."""

import re
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.agent import agent
from tests.support.daemon import Site, make_site, open_daemon
from tests.support.http import BASE, Client
from tests.support.shared import FILES, FOLDER, SOURCE, TARGET, node, upload, write_nodes

#: More than one piece of a streamed answer.
LARGE = bytes(range(256)) * 4096


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A root server without a database, with shared files and an agent that prints a line."""
    site = make_site(tmp_path, ConnectionInfo("127.0.0.1", 1, "rudder", "x", "rudder"), {})
    command = agent(tmp_path / "rudder", "echo output of the agent")
    site.extra = {
        "processing.reporting": 'output = "disabled"',
        "shared_folder": f'path = "{tmp_path / "folder"}"',
        "shared_files": f'path = "{tmp_path / "files"}"',
        "remote_run": f'command = "{command}"\nuse_sudo = false',
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large").write_bytes(LARGE)
    site.write()
    write_nodes(site.nodes_list, [node()], TARGET)
    return site


async def test_every_kind_of_request_is_answered(site: Site) -> None:
    """GET, a streamed file, a PUT, metrics, an unknown path and a remote run get their answers."""
    async with open_daemon(site) as daemon:
        stream = await trio.open_tcp_stream("127.0.0.1", site.port)
        async with stream:
            client = Client(stream)
            assert (await client.ask("GET", f"{BASE}/system/info")).status == 200
            assert (await client.ask("GET", f"{FOLDER}/large")).body == LARGE
            path = f"{FILES}/{TARGET}/{SOURCE}/file?ttl=1d"
            assert (await client.ask("PUT", path, upload(b"content"))).status == 200
            assert (await client.ask("GET", "/metrics")).status == 200
            assert (await client.ask("GET", f"{BASE}/nothing")).status == 404
        output = await trio.to_thread.run_sync(partial(_remote_run, site.port))
        assert re.search(rb"output of the agent", output)
        assert await daemon.stop() == 0


def _remote_run(port: int) -> bytes:
    url = f"http://127.0.0.1:{port}{BASE}/remote-run/nodes/{TARGET}"
    with urllib.request.urlopen(url, b"keep_output=true", timeout=30) as answer:
        body: bytes = answer.read()
        return body
