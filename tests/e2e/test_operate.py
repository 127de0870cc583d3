"""The operator's commands beside a running relayd."""

import subprocess
import sys

import pytest

from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine_all
from tests.support.daemon import Site, open_daemon
from tests.support.postgres import Database
from tests.support.stored import stored_executions

NODE = "node1"


@pytest.mark.site(nodes=[NODE])
async def test_replayed_files_are_stored_by_the_running_relayd(
    site: Site, database: Database
) -> None:
    """Refused run logs are moved back while relayd works, and each is stored once."""
    names = [site.name(NODE, number) for number in range(30)]
    for number, name in enumerate(names):
        site.upload(name, site.run_log(NODE, number))
    refused = Refused(Reason.EXPIRED, "waited longer than allowed")
    files = [RefusedFile(name, None, refused, NODE, "") for name in names]
    quarantine_all(site.incoming, site.failed, files)
    async with open_daemon(site) as daemon:
        site.send(NODE, 30)
        command = [sys.executable, "-m", "relayd", "failed", "replay", "-c", str(site.conf)]
        done = subprocess.run([*command, "--all"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "30 files moved back\n"), done.stderr
        await daemon.settled()
    assert stored_executions(database.query) == {(NODE, number): 1 for number in range(31)}
    assert list(site.failed.iterdir()) == []
