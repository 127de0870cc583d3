"""Remote run of a whole daemon: its settings count, and its stop leaves no command behind."""

import json
import os
import pwd
import signal
import subprocess
import sys
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
    """Return a root server whose command never ends."""
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


@pytest.mark.site(nodes=["good", "bad", "slow"], database=False)
async def test_runs_from_the_command_line(site: Site, tmp_path: Path) -> None:
    """Lines come live, each node gets its verdict; Ctrl-C does not end a run."""
    script = f"""
        for host; do :; done; echo "$host starts"
        case $host in bad*) exit 3;; slow*) echo $$ > {tmp_path / "slow"}; exec sleep 1000;; esac
    """
    site.extra["remote_run"] = f'command = "{agent(tmp_path / "rudder", script)}"\nuse_sudo = false'
    site.write_conf()
    command = [sys.executable, "-m", "relayd", "run", "-c", str(site.conf)]
    run = partial(trio.run_process, capture_stdout=True, capture_stderr=True, check=False)
    async with open_daemon(site) as daemon:
        done = await run([*command, "good", "bad", "--condition", "c1"])
        output = done.stdout.decode()
        assert (done.returncode, done.stderr) == (1, b"")
        assert "bad.test  │ bad.test starts\n" in output
        rows = [line.split() for line in output.splitlines()[-4:]]
        assert [row[:2] for row in rows[:2]] == [["NODE", "VERDICT"], ["good.test", "ok"]]
        assert rows[2][:3] == ["bad.test", "failed", "(3)"]
        assert output.endswith("\n1 of 2 ok\n")
        done = await run([*command, "good", "--json"])
        last = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, last["event"], last["ok"]) == (0, "summary", 1)
        done = await run([*command, "--all"], stdin=b"")
        assert (done.returncode, done.stdout) == (3, b"")
        assert b"there is no terminal to ask at; use --yes" in done.stderr
        following = await trio.lowlevel.open_process(
            [*command, "slow"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        pid = await pid_in(tmp_path / "slow")
        assert following.stdout is not None
        said = await following.stdout.receive_some()
        following.send_signal(signal.SIGINT)
        said += b"".join([piece async for piece in following.stdout])
        assert await following.wait() == 130
        assert said.decode().startswith("slow.test │ slow.test starts\n")
        assert b"The run goes on" in said
        assert alive(pid)
        user = pwd.getpwuid(os.getuid()).pw_name
        assert len(daemon.lines_of(f" operation action=run count=1 user={user} ")) == 2
        audited = await daemon.saw("remote run .*conditions=c1")
        assert f'asked_by="user {user}"' in audited
        assert await daemon.stop() == 0
        await gone(pid)
    done = await run([*command, "good"])
    assert done.returncode == 3
    assert b"relayd does not listen on" in done.stderr


def _post(port: int, target: str, form: bytes) -> tuple[int, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{BASE}/{target}", form) as answer:
        return answer.status, answer.read()
