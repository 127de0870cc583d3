"""Remote run of a whole daemon: its settings count, and its stop leaves no command behind."""

import json
import os
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.agent import agent, alive, gone, pid_in
from tests.support.daemon import Site, open_daemon

BASE = "/rudder/relay-api/1/remote-run"


pytestmark = pytest.mark.site(nodes=["node1"])


@pytest.fixture
def site(site: Site, tmp_path: Path) -> Site:
    """Return a root server with one node, whose command never ends."""
    script = f"trap '' TERM; env; sleep 1000 & echo $! > {tmp_path / 'pid'}; wait; sleep 1000"
    command = agent(tmp_path / "rudder", script)
    site.extra["remote_run"] = f'command = "{command}"\nuse_sudo = false\ntimeout = "2s"'
    site.write_conf()
    return site


def _events(port: int, target: str) -> list[dict[str, object]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{BASE}/{target}",
        b"asynchronous=true&keep_output=true",
        {"Accept": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [json.loads(line) for line in answer]


@pytest.mark.fault("A16")
async def test_settings_count_and_the_environment_stays_here(site: Site) -> None:
    """The deadline of main.conf ends the command, which has seen nothing of relayd's variables."""
    async with open_daemon(site, env={"RELAYD_CANARY": "secret"}):
        events = await trio.to_thread.run_sync(partial(_events, site.port, "nodes/node1"))
    [verdict] = [event for event in events if event["event"] == "exit"]
    assert (verdict["code"], verdict["detail"]) == (None, "terminated: no output for 2 s")
    output = [str(event["output"]) for event in events if event["event"] == "output"]
    assert f"PATH={os.environ['PATH']}" in output
    assert not [line for line in output if "RELAYD_CANARY" in line]
    await gone(await pid_in(site.root / "pid"))


async def test_a_stop_ends_commands(site: Site) -> None:
    """SIGTERM ends relayd with 0 and takes commands that ignore it along."""
    site.extra["remote_run"] = site.extra["remote_run"].replace("2s", "1h")
    site.write_conf()
    async with open_daemon(site) as daemon:
        status, _ = await trio.to_thread.run_sync(
            partial(_post, site.port, "nodes/node1", b"asynchronous=true")
        )
        assert status == 200
        pid = await pid_in(site.root / "pid")
        assert alive(pid)
        assert await daemon.stop() == 0
        await daemon.saw(r"remote_run: remote run .*outcome=stopped")
    await gone(pid)


def _post(port: int, target: str, form: bytes) -> tuple[int, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{BASE}/{target}", form) as answer:
        return answer.status, answer.read()
