"""How the web application starts the agents of all nodes, if Rudder's test data are available."""

import json
import os
import sys
from pathlib import Path

import pytest
import trio

from tests.support.agent import agent
from tests.support.daemon import NOWHERE, make_site, open_daemon
from tests.support.project import VECTORS

TRIGGER = VECTORS / "field" / "webapp-triggers-all-nodes" / "trigger.py"

pytestmark = pytest.mark.skipif(not TRIGGER.is_file(), reason="Rudder's test data are not here")


@pytest.mark.fault("F3")
async def test_a_run_for_each_of_700_nodes(tmp_path: Path) -> None:
    """All of 700 requests, one for each node and none of them repeated, are accepted."""
    command = agent(tmp_path / "slow", "sleep 25")
    site = make_site(
        tmp_path, NOWHERE, {}, {"remote_run": f'command = "{command}"\nuse_sudo = false'}
    )
    nodes = {
        f"n{number}": {"hostname": f"n{number}", "policy-server": "root"} for number in range(700)
    }
    nodes["root"] = {"hostname": "root", "policy-server": "root"}
    site.nodes_list.write_text(json.dumps(nodes))
    async with open_daemon(site):
        done = await trio.run_process(
            [sys.executable, str(TRIGGER)],
            env={**os.environ, "PORT": str(site.port)},
            capture_stdout=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"{200: 700}\n")
