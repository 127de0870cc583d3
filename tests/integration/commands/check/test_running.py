"""Findings of `relayd check` about what runs: the daemon, and the web server in front."""

import json
import os
import pwd
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from relayd import __version__
from tests.support.checked import check, check_beside, give, open_site
from tests.support.daemon import NOWHERE, Site, open_daemon
from tests.support.misconfigured import about_site, rewrite

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can check another user")


@pytest.fixture
def idle() -> Iterator[Site]:
    """A server of which nothing runs, without a database."""
    with open_site(NOWHERE) as site:
        site.extra["processing.reporting"] = 'output = "upstream"'
        site.extra["processing.inventory"] += '\noutput = "upstream"'
        site.extra["output.upstream"] = (
            f'password = "x"\nserver_certificate_file = "{site.certificates}"'
        )
        rewrite(site)
        yield site


def arrive(site: Site, age: float) -> None:
    """Puts a run log of some age into the spool."""
    file = site.incoming / site.name("node1")
    file.write_bytes(b"x")
    file.chmod(0o644)
    os.utime(file, (time.time() - age,) * 2)
    give(site.root)


@pytest.mark.fault("F32")
@pytest.mark.parametrize("age", [None, 5.0, 1500.0])
def test_a_daemon_that_does_not_run_is_reported(idle: Site, age: float | None) -> None:
    """A stopped relayd is a warning, and an error once files have waited for a minute."""
    if age is not None:
        arrive(idle, age)
    done = check(idle)
    (line,) = [line for line in done.findings if "relayd is not running" in line]
    where = f"general.listen 127.0.0.1:{idle.port}: relayd is not running"
    waits = ", and 1 file waits, the oldest for 25 min"
    level, text = ("error", waits) if age == 1500.0 else ("warning", "")
    assert line.startswith(f"{level}: {where}{text}. Fix: ")


@pytest.mark.fault("F32")
async def test_drift_between_the_daemon_and_its_files_is_reported(site: Site) -> None:
    """Changed files, keys that need a restart, a moved API and a daemon that hangs are named."""
    old = time.time() - 300
    for path in (site.nodes_list, site.conf / "main.conf"):
        os.utime(path, (old, old))
    async with open_daemon(site) as daemon:
        assert about_site((await check_beside(site)).findings) == []
        site.extra["general"] = "https_port = 4443"
        site.write_conf()
        give(site.root)
        for path in (site.nodes_list, site.conf / "main.conf"):
            os.utime(path, (old + 100, old + 100))
        assert about_site((await check_beside(site)).findings) == [
            f"warning: {path}: was changed after relayd had read it."
            f" Fix: kill -HUP {daemon.process.pid}"
            for path in (site.conf / "main.conf", site.nodes_list)
        ]
        assert (await daemon.post("/rudder/relay-api/1/system/reload"))[0] == 200
        assert about_site((await check_beside(site)).findings) == [
            (
                f"warning: {site.conf}/main.conf: relayd runs without 1 changed key;"
                f" its log names it. Fix: end process {daemon.process.pid}, which no unit of"
                " systemd runs, and start relayd again"
            )
        ]
        site.nodes_list.write_text("{")
        await daemon.post("/rudder/relay-api/1/system/reload")
        lines = (await check_beside(site)).findings
        assert [line for line in lines if "running relayd reports" in line] == []
        assert f"error: {site.nodes_list}: line 1" in "\n".join(lines)
        port, site.port = site.port, site.port + 1
        site.write_conf()
        moved = await check_beside(site)
        site.port = port
        assert f"process {daemon.process.pid} has locked the spool" in "\n".join(moved.findings)
        site.write_conf()
        give(site.root)
        daemon.process.send_signal(signal.SIGSTOP)
        hung = await check_beside(site)
        daemon.process.send_signal(signal.SIGCONT)
        where = f"general.listen 127.0.0.1:{site.port}"
        assert (
            f"error: {where}: process {daemon.process.pid}, which has locked the spool, does not"
            f" answer. Fix: end process {daemon.process.pid}, which no unit of systemd runs, and"
            " start relayd again"
        ) in hung.findings
        assert await daemon.stop() == 0


@pytest.mark.fault("F36")
async def test_a_running_relay_without_a_nodes_list_is_no_error(idle: Site) -> None:
    """What the daemon says of a missing nodes list is a warning where only files are forwarded."""
    idle.nodes_list.unlink()
    async with open_daemon(idle):
        found = (await check_beside(idle)).findings
    errors = [line for line in found if line.startswith("error")]
    assert not any("nodeslist" in line or "reports about its" in line for line in errors)
    assert any(line.startswith("warning: ") and "nodeslist" in line for line in found)


@asynccontextmanager
async def open_program(site: Site, **answers: object) -> AsyncIterator[None]:
    """Answer in the daemon's place: JSON documents and texts, by the last part of the path."""

    async def serve(stream: trio.SocketStream) -> None:
        request = await stream.receive_some(4096)
        if not request:  # the check whether anything listens there at all
            return
        name = request.split(b" ")[1].decode().rpartition("/")[2]
        answer = answers.get(name, "")
        body = answer if isinstance(answer, str) else json.dumps(answer)
        await stream.send_all(f"HTTP/1.1 200 OK\r\n\r\n{body}".encode())
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        site.port = listener.socket.getsockname()[1]
        rewrite(site)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.fault("F32")
@pytest.mark.parametrize(
    ("version", "metrics", "level", "text"),
    [
        ("8.3.0", "rudder_relayd_managed_nodes_total 3\n", "warning", "own rudder-relayd 8.3.0"),
        (
            "0.0.1",
            "rudder_relayd_event_loop_lag_seconds_sum 3\n",
            "warning",
            f"relayd 0.0.1 runs, but {__version__} is installed",
        ),
    ],
)
async def test_another_daemon_or_version_is_reported(
    idle: Site, version: str, metrics: str, level: str, text: str
) -> None:
    """Rudder's own daemon on the same address, and another version of relayd, are recognized."""
    info = {"action": "getSystemInfo", "data": {"full-version": version}}
    async with open_program(idle, info=info, metrics=metrics):
        done = await check_beside(idle)
    (line,) = [line for line in done.findings if text in line]
    assert line.startswith(f"{level}: general.listen ")


@pytest.mark.fault("F37")
async def test_what_only_the_daemon_complains_about_is_reported_with_an_action(idle: Site) -> None:
    """A complaint that no check explains is a finding, whose fix can be done."""
    answers = {
        "info": {"action": "getSystemInfo", "data": {"full-version": __version__}},
        "metrics": "rudder_relayd_event_loop_lag_seconds_sum 3\n",
        "status": {
            "action": "getStatus",
            "data": {"database": {"status": "error", "details": "the disk is full"}},
        },
    }
    async with open_program(idle, **answers):
        done = await check_beside(idle)
    (line,) = [line for line in done.findings if "reports about its database" in line]
    assert "the disk is full. Fix: reload" in line or "the disk is full. Fix: systemctl" in line


@as_root
@pytest.mark.fault("F32")
@pytest.mark.parametrize("kind", ["leaf", "parent", "member", "ours"])
def test_a_web_server_that_may_not_upload_is_reported(idle: Site, kind: str) -> None:
    """The spool is tried with the permissions of the web server, directory by directory."""
    web, incoming = "daemon", idle.incoming
    gid = pwd.getpwnam("games").pw_gid
    group = pwd.getpwnam(web).pw_gid if kind == "ours" else gid
    for path in (incoming, *(idle.root / "inventories").iterdir()):
        os.chown(path, -1, group)
        path.chmod(0o755 if kind == "leaf" else 0o770)
    if kind == "parent":
        incoming.parent.chmod(0o750)
        incoming.chmod(0o777)
    lines = [line for line in check(idle, "--web-user", web).findings if "the web server" in line]
    where = f"error: {incoming}: the web server (user {web})"
    restart = "then restart the web server"
    expected = {
        "leaf": f"{where} may not write to it, so uploads fail. Fix: chmod g+rwx {incoming}"
        f" && usermod -aG games {web}, {restart}",
        "member": f"{where} may not write to it, so uploads fail. Fix: usermod -aG games {web},"
        f" {restart}",
        "parent": f"{where} may not enter {incoming.parent}, so uploads fail. Fix: ",
    }
    if kind == "ours":
        assert lines == []
    else:
        assert lines[0].startswith(expected[kind])
