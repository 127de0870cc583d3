"""The examples of docs/api.md, run as they stand there."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.agent import agent
from tests.support.daemon import Site, open_daemon
from tests.support.project import DOCS
from tests.support.shared import spki
from tests.support.signing import SigningNode, make_key_and_cert

PAGE = DOCS / "api.md"
ADDRESS = "127.0.0.1:3030"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Prints a line for each host of its last argument.
AGENT = """
for last; do :; done
for host in $(echo "$last" | tr , ' '); do echo "$host: run complete"; done
"""


pytestmark = pytest.mark.site(nodes=())


@pytest.fixture
def site(site: Site, tmp_path: Path) -> Site:
    """Return the root server of the examples, with its two nodes, a key and a file to share."""
    site.extra = {
        "remote_run": f'command = "{agent(tmp_path / "rudder", AGENT)}"\nuse_sudo = false',
        "shared_folder": f'path = "{tmp_path / "folder"}"',
        "shared_files": f'path = "{tmp_path / "files"}"',
    }
    site.write()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "motd").write_text("hello\n")
    node = make_key_and_cert("n1")
    (tmp_path / "node.key").write_bytes(node.key_pem)
    _write_nodes(site, node)
    return site


def _write_nodes(site: Site, node: SigningNode) -> None:
    key_hash = f"sha256:{hashlib.sha256(spki(node)).hexdigest()}"
    nodes = {
        name: {"hostname": f"{name}.example.com", "policy-server": "root"}
        for name in ("root", "n1", "n2")
    }
    nodes["n1"]["key-hash"] = key_hash
    site.nodes_list.write_text(json.dumps(nodes))


def _examples(text: str) -> Iterator[tuple[str, str]]:
    """Each command with what the page says that it prints."""
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            end = 1
            while end < len(lines) and (lines[end - 1].endswith("\\") or lines[end][:2] == "> "):
                end += 1
            command = "\n".join(line.removeprefix("> ") for line in lines[:end])
            yield command, "\n".join(lines[end:])


def _run(commands: list[str], directory: Path) -> list[str]:
    """Return what each command of one shell prints."""
    mark = "--- next ---"
    script = "".join(f"{command}\necho; echo '{mark}'\n" for command in commands)
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [printed.strip("\n") for printed in done.stdout.split(f"{mark}\n")[:-1]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_examples_print_what_the_page_says(site: Site) -> None:
    """Each command of the page, in its order, prints what stands below it there."""
    text = PAGE.read_text().replace(ADDRESS, f"127.0.0.1:{site.port}")
    text = text.replace("127.0.0.1:5432", f"127.0.0.1:{site.database.port}")
    commands, printed = zip(*_examples(text), strict=True)
    async with open_daemon(site):
        found = await trio.to_thread.run_sync(_run, list(commands), site.root)
    assert dict(zip(commands, found, strict=True)) == dict(zip(commands, printed, strict=True))
    assert len(commands) > 15
