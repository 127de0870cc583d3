"""relayd in locales that are not UTF-8: names are UTF-8 bytes all the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
import trio

from relayd.remote_run.helper.protocol import OUTPUT
from tests.support.agent import PRINT_ARGUMENTS, agent
from tests.support.daemon import Daemon, Site, fetch, open_daemon
from tests.support.helper_socket import ask, connect, open_helper_socket
from tests.support.ledger import Ledger
from tests.support.postgres import Database

API: Final = "/rudder/relay-api/1"
#: The C locale, and nothing of what Python makes of it by itself (PEP 538, PEP 540).
ASCII: Final = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
#: In Latin-1, outside of it, and beyond the first 65,536 characters.
NAMES: Final = ("été.txt", "日.txt", "𝄞.txt")
HOST: Final = "nœud.日.test"

pytestmark = pytest.mark.fault("F11")


def latin1(directory: Path) -> dict[str, str]:
    """Return the environment of a locale in ISO 8859-1, made for this test."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/fr_FR").exists():
        pytest.skip("locales cannot be made here: localedef or its sources are missing")
    target = str(directory / "fr_FR.ISO-8859-1")
    command = ["localedef", "-i", "fr_FR", "-f", "ISO-8859-1", target]
    subprocess.run(command, check=True)
    return {"LOCPATH": str(directory), "LC_ALL": "fr_FR.ISO-8859-1"}


@pytest.fixture(params=["ascii", "latin1"])
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a locale that is not UTF-8."""
    return ASCII if request.param == "ascii" else latin1(tmp_path)


@pytest.fixture
def site(site: Site, tmp_path: Path) -> Site:
    """Return a root server with names beyond ASCII wherever an operator may choose them."""
    folder = tmp_path / "dossier partagé"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    site.extra["shared_folder"] = f'path = "{folder}"'
    site.extra["processing.reporting"] = f'directory = "{tmp_path / "journaux reçus"}"'
    command = agent(tmp_path / "exécute", PRINT_ARGUMENTS)
    site.extra["remote_run"] = f'command = "{command}"\nuse_sudo = false'
    site.write_conf()
    listed = json.loads(site.nodes_list.read_text())
    listed["node1"]["hostname"] = HOST
    site.nodes_list.write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    site.incoming.parent.rename(tmp_path / "journaux reçus")
    (tmp_path / "reports").symlink_to(tmp_path / "journaux reçus")
    return site


async def remote_run(daemon: Daemon) -> str:
    """Return what the command of a remote run prints, which is its arguments."""
    url = f"http://127.0.0.1:{daemon.site.port}{API}/remote-run/nodes/node1"
    form = b"keep_output=true&asynchronous=false"
    status, body = await trio.to_thread.run_sync(fetch, url, form)
    assert status == 200
    return body.decode()


@pytest.mark.site(nodes=["node1", "node2"])
async def test_names_are_utf8_whatever_the_locale(
    site: Site, ledger: Ledger, database: Database, locale: dict[str, str]
) -> None:
    """Files are found, commands get names and workers get paths in UTF-8, and so is the log."""
    async with open_daemon(site, env=locale) as daemon:
        for name in NAMES:
            status, body = await daemon.get(f"{API}/shared-folder/{quote(name)}")
            assert (status, body.decode()) == (200, name)
        assert HOST in await remote_run(daemon)
        ledger.send()
        ledger.send_forged()
        site.upload("2026-03-01T12:00:00+00:00@été.log", b"")
        await daemon.settled()
        assert daemon.lines_of("été.log")
        assert daemon.lines_of("journaux reçus")
        assert await daemon.stop() == 0
    for path in site.failed.glob("*été*"):
        path.unlink()
    await ledger.balance(database)


@pytest.mark.site(nodes=["node1"], database=False)
@pytest.mark.parametrize("program", [["relayd", "check"], ["relayd", "inspect"]])
def test_tools_take_and_show_utf8(site: Site, program: list[str], tmp_path: Path) -> None:
    """`check` and `inspect` find what the configuration and the command line name, and show it."""
    path = tmp_path / "2026-03-01T12:00:00+00:00@été.log"
    path.write_bytes(b"")
    more = [str(path)] if "inspect" in program else []
    site.incoming.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", *program, "-c", str(site.conf), *more],
        env=ASCII,
        capture_output=True,
        check=False,
    )
    shown = done.stdout.decode() + done.stderr.decode()
    assert "Traceback" not in shown
    assert ("été.log" if more else "journaux reçus/incoming") in shown


async def test_helper_starts_and_logs_in_utf8(place: Path, locale: dict[str, str]) -> None:
    """The root helper finds a command of any name, and its own ellipsis reaches the journal."""
    command = agent(place / "exécute", PRINT_ARGUMENTS)
    hosts = [f"node{number}.test" for number in range(30)]
    wrapper = ["env", *(f"{name}={value}" for name, value in locale.items())]
    async with open_helper_socket(place, command, hosts, wrapper=wrapper) as unit:
        request = json.dumps({"hosts": hosts, "conditions": []}) + "\n"
        kinds = dict(await ask(connect(unit.path), request.encode()))
        assert ",".join(hosts) in kinds[OUTPUT].decode()
        assert any("…" in line for line in unit.said())
