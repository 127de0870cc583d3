"""The web server and relayd as two ordinary accounts that share the spool."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.postgres import Database
from tests.support.project import CONF
from tests.support.webserver import GROUP, Kind, Web, open_web, write_web

#: An unused account, in the web server's group, which takes the place of `rudder`.
_RELAYD: Final = ("setpriv", "--reuid=64998", f"--regid={GROUP}", "--clear-groups")
#: The same, able to read an interpreter that lies in someone's home; it can write no more for it.
_READER: Final = (*_RELAYD, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
_LINE: Final = re.compile(r"^d /var/rudder(\S*) +:(\d+) :root :rudder -$", re.MULTILINE)


def other_account() -> tuple[str, ...]:
    """Return a wrapper that runs Python as another account; skip where that is impossible."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another account")
    # setpriv itself may still read everything when it starts Python: what counts is the next one.
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    for wrapper in (_RELAYD, _READER):
        check = [*wrapper, sys.executable, "-c", again]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return wrapper
    pytest.skip("no other account can run this interpreter")


def make_directories(root: Path) -> list[Path]:
    """Make the directories of the shipped tmpfiles.d(5) file below `root`."""
    lines = _LINE.findall((CONF / "tmpfiles.d" / "relayd.conf").read_text())
    for name, mode in lines:
        path = Path(f"{root}{name}")
        path.mkdir(exist_ok=True)
        os.chown(path, 0, GROUP)
        path.chmod(int(mode, 8))
    return [Path(f"{root}{name}") for name, _ in lines]


@pytest.mark.parametrize("kind", ["apache", "nginx"], indirect=True)
async def test_two_accounts_share_the_spool(kind: Kind, place: Path, database: Database) -> None:
    """With the shipped directories, relayd takes what the web server wrote; others see nothing."""
    wrapper, home = other_account(), {"HOME": str(place)}
    site = make_site(place, database.rudder, fleet())
    web = write_web(Web(kind, place, site.port, site.nodes))
    directories = make_directories(place)
    assert web.incoming in directories
    for path in (site.conf, *site.conf.iterdir()):
        os.chown(path, 0, GROUP)
    async with open_web(web):
        assert (await web.upload(f"/reports/{site.name('node0')}", b"not signed")).status == 201
        assert (await web.upload(f"/reports/{site.name('node1')}", site.run_log("node1"))).status
        for path in web.incoming.iterdir():
            found = path.stat()
            assert (found.st_uid, found.st_gid) != (0, 0)
            assert found.st_gid == GROUP
            assert found.st_mode & stat.S_IRGRP
        async with open_daemon(site, wrapper=wrapper, env=home) as daemon:
            await daemon.settled()
            assert await daemon.stop() == 0
    assert database.query("SELECT count(*) FROM ruddersysevents") == [("6",)]
    assert list(site.refused()) == [site.name("node0")]
    for path in directories[1:]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
