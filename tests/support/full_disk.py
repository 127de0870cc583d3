"""A daemon whose PostgreSQL runs out of disk; for a process with a mount namespace of its own.

unshare --mount python -m tests.support.full_disk DIRECTORY
"""

import ctypes
import json
import os
import sys
from functools import partial
from pathlib import Path

import trio

from relayd.commands.demo.postgres.opening import open_postgres
from tests.support.daemon import make_site, open_daemon
from tests.support.postgres import QUICK, rows
from tests.support.signing import make_key_and_cert
from tests.support.stored import stored_rows

NODE = "node1"
SIZE = b"size=128m,mode=0755"
#: What is left on the disk when run logs come, bytes: less than one of them takes.
LEFT = 400_000
REPORTS = 5_000


async def main(directory: Path) -> None:
    """Plays it; raises when relayd does not do what it should."""
    disk = directory / "disk"
    disk.mkdir()
    mount_tmpfs(disk)
    async with open_postgres(disk, extra=QUICK) as postgres:
        site = make_site(directory, postgres.rudder, {NODE: make_key_and_cert(NODE)})
        async with open_daemon(site) as daemon:
            site.send(NODE, 0)
            await daemon.settled()
            fill(disk / "filler")
            names = [site.send(NODE, number, reports=REPORTS) for number in (1, 2)]
            await daemon.saw(r"could not extend file.*No space left on device.*sqlstate=53100")
            await daemon.saw(r"output still unavailable.*attempt=4")
            status, body = await daemon.get("/rudder/relay-api/1/system/status")
            assert status == 200
            assert "No space left on device" in json.loads(body)["data"]["database"]["details"]
            assert site.waiting() == sorted(names)
            assert site.refused() == {}
            (disk / "filler").unlink()
            await daemon.settled()
        stored = stored_rows(partial(rows, postgres.server))
        assert stored == {(NODE, 0): 6, (NODE, 1): REPORTS, (NODE, 2): REPORTS}


def mount_tmpfs(place: Path) -> None:
    """Mounts a small filesystem, see mount(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, SIZE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(place))


def fill(path: Path) -> None:
    """Take all space but `LEFT`."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - LEFT)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
