"""relayd's package on a server as Rudder's packages leave it, from installation to removal."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import NOWHERE, Daemon, eventually, open_daemon
from tests.support.machine import open_machine
from tests.support.packages import Server, install, make_server, repack
from tests.support.ports import free_port
from tests.support.strace import children

API: Final = "/rudder/relay-api/1"
PREVIOUS: Final = "0.0.9-1"
ONLY_THERE: Final = "/usr/share/relayd/previous"
PROGRAM: Final = "/usr/lib/relayd/bin/rudder-relayd"
CALLS: Final = "/tmp/systemctl.calls"
#: Records how it was called, and whether the program was there.
SYSTEMCTL: Final = f"""#!/bin/sh
[ -e {PROGRAM} ] && there=1 || there=0
echo "$there $*" >> {CALLS}
"""


@pytest.fixture(params=["root", "relay", "older relay"])
def server(request: pytest.FixtureRequest, package: Path, tmp_path: Path) -> Iterator[Server]:
    """Yield a server of each role, on which relayd's package can be installed."""
    *age, role = request.param.split()
    with open_machine(tmp_path) as machine:
        machine.share(package.parent)
        yield make_server(machine, role, free_port(), NOWHERE, older=bool(age))


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Daemon]:
    """Yield the installed daemon, which runs as the service user."""
    environment = {"HOME": "/var/rudder", "LC_ALL": "POSIX"}
    async with open_daemon(
        server, env=environment, wrapper=server.wrapper(), python=(), program=["rudder-relayd"]
    ) as daemon:
        yield daemon


async def takes(server: Server, number: int) -> None:
    """Wait until a daemon has moved a run log that nobody signed to `failed`."""
    name = f"2026-03-01T10:00:{number:02}+00:00@root.log"
    server.receive(f"/var/rudder/reports/incoming/{name}", b"rubbish")
    await eventually((server.failed / name).exists)


@pytest.mark.fault("F2", "F13")
async def test_works_on_what_packages_leave(server: Server, package: Path) -> None:
    """The service user needs to write where files are, and no password, list or pin to start."""
    before = server.modes()
    assert server.machine is not None
    install(server.machine, package)
    assert server.modes() == before
    async with running(server) as daemon:
        account = int(server.shell("id --user rudder-relayd"))
        assert Path(f"/proc/{daemon.process.pid}").stat().st_uid == account
        if server.role == "root":
            await takes(server, 1)
        else:
            await forwards(server, daemon)
        assert (await daemon.get(f"{API}/system/info"))[0] == 200
        assert await daemon.stop() == 0
    assert server.modes() == before
    assert errors_of_check(server) == set()


async def forwards(server: Server, daemon: Daemon) -> None:
    """Wait until a relay has tried to send a file of each directory."""
    for directory in ("reports/incoming", "inventories/incoming"):
        name = "2026-03-01T10:00:01+00:00@root.log" if "reports" in directory else "a.ocs.sign"
        server.receive(f"/var/rudder/{directory}/{name}", b"rubbish")
    await daemon.saw("output unavailable; files wait")
    for directory in ("reports/incoming", "inventories/accepted-nodes-updates"):
        await daemon.saw(f"file=/var/rudder/{directory} mode=inotify")


def errors_of_check(server: Server) -> set[str]:
    """Return what `relayd check`, run by root, takes for an error in files and directories."""
    assert server.machine is not None
    done = server.machine.run("relayd", "check", "--json", check=False)
    findings = json.loads(done.stdout)["findings"]
    codes = {one["code"] for one in findings if one["level"] == "error"}
    return {code for code in codes if code.startswith(("spool", "files", "configuration"))}


@pytest.mark.fault("F2")
@pytest.mark.parametrize("server", ["root"], indirect=True)
async def test_upgrade_downgrade_and_removal_while_it_runs(
    server: Server, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each step finds a daemon that works, asks for its restart, and leaves what was laid out."""
    machine = server.machine
    assert machine is not None
    place = tmp_path_factory.mktemp("previous")
    previous = repack(package, place, PREVIOUS, ONLY_THERE)
    machine.share(place)
    before = server.modes()
    stub = server.root / "usr/bin/systemctl"
    stub.unlink()
    stub.write_text(SYSTEMCTL)
    stub.chmod(0o755)
    server.shell("mkdir -p /run/systemd/system")
    assert "restart" not in "".join(calls(server))
    install(machine, previous)
    for step, (release, is_previous) in enumerate([(package, False), (previous, True)]):
        async with running(server) as daemon:
            await takes(server, 3 * step)
            calls(server)
            install(machine, release)
            assert (server.root / ONLY_THERE[1:]).exists() is is_previous
            assert calls(server)[-1] == "1 try-restart relayd.service rudder-relayd-helper.socket"
            await takes(server, 3 * step + 1)
            # The next worker process is one of the other release.
            for worker in children(daemon.process.pid):
                os.kill(worker, signal.SIGKILL)
            await takes(server, 3 * step + 2)
            assert await daemon.stop() == 0
    calls(server)
    machine.run("dpkg", "--remove", "relayd")
    stop, *_ = calls(server)
    assert stop == "1 stop rudder-relayd-helper.socket relayd.service"
    assert not (server.root / PROGRAM[1:]).exists()
    assert server.modes() == before
    assert len(server.refused()) == 6


def calls(server: Server) -> list[str]:
    """Return how systemctl was called since the last time."""
    return server.shell(f"cat {CALLS} 2>/dev/null || true; rm -f {CALLS}").splitlines()
