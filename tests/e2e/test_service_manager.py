"""relayd under a service manager: readiness, reloads, stop, watchdog."""

import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from relayd import __version__
from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.daemon import Site, make_site, open_daemon
from tests.support.ledger import Ledger, fleet
from tests.support.postgres import Database
from tests.support.service_manager import open_service_manager
from tests.support.strace import children
from tests.support.tree import make_tree

API: Final = "/rudder/relay-api/1"
#: Gives the process its own number as a service manager does: it is the one that is started.
WATCHED: Final = ("sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh")
PERIOD_S: Final = 2.0


async def test_ready_once_files_are_taken_and_the_api_answers(site: Site) -> None:
    """Readiness is reported when the API answers and the spool is watched, not before."""
    slow = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_add_watch")
    rule = "inject=inotify_add_watch:delay_enter=1000000"
    with open_service_manager(site.root / "notify") as manager:
        async with open_daemon(
            site, env=manager.environment(), wrapper=(*slow, "-e", rule), ready=None
        ) as daemon:
            assert "API on http://127.0.0.1" in (await manager.hears("READY", "1"))["STATUS"]
            assert inotify_watches(daemon.process.pid)
            assert (await daemon.get(f"{API}/system/info"))[0] == 200


def inotify_watches(pid: int) -> list[str]:
    """Return what a process watches according to its descriptors: proc(5)."""
    texts = []
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            texts.append(path.read_text())
    return [line for text in texts for line in text.splitlines() if line.startswith("inotify wd:")]


async def test_ready_on_a_relay(tmp_path: Path, database: Database) -> None:
    """A relay is ready when all of its spool directories are watched, upstream or not."""
    relay = make_tree(tmp_path, database.rudder).relay
    slow = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_add_watch")
    rule = "inject=inotify_add_watch:delay_enter=1000000"
    with open_service_manager(relay.root / "notify") as manager:
        async with open_daemon(
            relay, env=manager.environment(), wrapper=(*slow, "-e", rule), ready=None
        ) as daemon:
            await manager.hears("READY", "1")
            assert len(inotify_watches(daemon.process.pid)) == 3


async def test_ready_without_nodes_list(site: Site) -> None:
    """A nodes list that is not there holds up files, not the start of the unit."""
    site.nodes_list.unlink()
    with open_service_manager(site.root / "notify") as manager:
        async with open_daemon(site, env=manager.environment(), ready=None):
            await manager.hears("READY", "1")


async def test_ready_without_database(tmp_path: Path) -> None:
    """A database that is not there is no reason not to be ready."""
    nowhere = ConnectionInfo("127.0.0.1", 1, "rudder", "secret", "rudder")
    site = make_site(tmp_path, nowhere, fleet())
    with open_service_manager(site.root / "notify") as manager:
        async with open_daemon(site, env=manager.environment(), ready=None):
            await manager.hears("READY", "1")


def is_whole(message: dict[str, str], site: Site) -> bool:
    """Whether a message after a reload still says all that an operator looks for."""
    state = rf"version {__version__}, API on http://127.0.0.1:{site.port}, files waiting: 0"
    found = re.fullmatch(rf"{state}; reloaded at [-0-9]+ [:0-9]+ UTC", message["STATUS"])
    return message["READY"] == "1" and found is not None


@pytest.mark.fault("F40")
async def test_reloads_and_stop_are_reported(site: Site) -> None:
    """Reloads by signal and API are reported, failed ones too, and the beginning of the stop."""
    with open_service_manager(f"@relayd-{site.port}") as manager:
        async with open_daemon(site, env=manager.environment()) as daemon:
            await manager.hears("READY", "1")
            daemon.process.send_signal(signal.SIGHUP)
            await manager.hears("RELOADING", "1")
            assert is_whole(await manager.message(), site)

            assert (await daemon.post(f"{API}/system/reload"))[0] == 200
            assert (await manager.message())["RELOADING"] == "1"
            assert is_whole(await manager.message(), site)

            (site.conf / "main.conf").write_text("[general")
            daemon.process.send_signal(signal.SIGHUP)
            assert (await manager.message())["RELOADING"] == "1"
            assert "main.conf" in (await manager.message())["STATUS"]

            assert await daemon.stop() == 0
            assert (await manager.message())["STOPPING"] == "1"


async def test_workers_cannot_speak_for_the_daemon(site: Site) -> None:
    """Worker processes do not inherit the way to the service manager."""
    with open_service_manager(site.root / "notify") as manager:
        env = manager.environment(PERIOD_S)
        async with open_daemon(site, env=env, wrapper=WATCHED) as daemon:
            await manager.hears("WATCHDOG", "1")
            (worker,) = children(daemon.process.pid)
            environment = Path(f"/proc/{worker}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environment
            assert b"WATCHDOG" not in environment


@pytest.mark.fault("L5")
async def test_hanging_event_loop_is_restarted(site: Site, database: Database) -> None:
    """When the event loop hangs, the watchdog hears nothing any more; a restart loses nothing."""
    ledger = Ledger(site, 5)
    go = site.root / "go"
    with open_service_manager(site.root / "notify") as manager:
        async with open_daemon(
            site,
            env=manager.environment(PERIOD_S),
            wrapper=WATCHED,
            program=("tests.support.hanging", str(go)),
        ) as daemon:
            ledger.send()
            await daemon.settled()
            for _ in range(3):
                await manager.hears("WATCHDOG", "1")
            go.touch()
            await manager.falls_silent(PERIOD_S)
            assert daemon.process.returncode is None
            ledger.send()
            # What systemd sends then (WatchdogSignal=).
            assert await daemon.stop(signal.SIGABRT) == -signal.SIGABRT
        async with open_daemon(site, env=manager.environment()) as daemon:
            await daemon.settled()
            assert await daemon.stop() == 0
    await ledger.balance(database)
