"""Uploads to a disk that is full; for a process with a mount namespace of its own.

`python -m tests.support.shared_full_disk DIRECTORY bytes|inodes` prints what happened.
"""

import subprocess
import sys
from pathlib import Path

import trio

from tests.support.http import open_server
from tests.support.shared import FILES, SOURCE, TARGET, make_shared, upload

PATH = f"{FILES}/{TARGET}/{SOURCE}/f?ttl=1d"


async def main(root: Path, what: str) -> None:
    """Upload until no byte, or no inode, is left, and once more when there is space again."""
    options = "size=512k,nr_inodes=64"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", root], check=True)
    shared = await make_shared(root)
    body, small = upload(b"x" * 300_000), upload(b"small")
    async with open_server(shared.app()) as server:
        print("first", (await server.ask("PUT", PATH, body)).status)
        before = shared.pair("f")
        if what == "inodes":
            take_inodes(root)
            body = small
        for _ in range(3):
            print("full", (await server.ask("PUT", PATH, body)).status)
        print("kept", shared.pair("f") == before)
        print("left", [path.name for path in shared.files.glob("*/.*")])
        for path in root.glob("inode*"):
            path.unlink()
        print("again", (await server.ask("PUT", PATH, small)).status)


def take_inodes(root: Path) -> None:
    """Leaves none."""
    for number in range(100):
        try:
            (root / f"inode{number}").symlink_to("x")
        except OSError:
            return


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
