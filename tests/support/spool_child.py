"""Parts of the spool in a process of their own, to be traced, killed or put on other mounts.

`python -m tests.support.spool_child SCENARIO DIRECTORY` works on `DIRECTORY/incoming` and prints
what happened, one line each.
"""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from trio.testing import MockClock

from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine, quarantine_all, requeue
from relayd.spool.identity import identity, identity_at
from tests.support.spool import Watcher, open_watcher

REFUSED = Refused(Reason.ARCHIVE, "cut short")


def upload(path: Path) -> None:
    """Return a file as the web server leaves it."""
    temporary = path.with_name(".davfs.tmp000001")
    temporary.write_text("x")
    temporary.rename(path)


def mount(*arguments: str | Path) -> None:
    """Change the mounts of this namespace."""
    subprocess.run(arguments, check=True)


async def expect(watcher: Watcher, name: str) -> None:
    """Process one file and say its name."""
    print(*await watcher.finish(1), flush=True)
    assert not (watcher.path / name).exists()


async def mounted_over(root: Path) -> None:
    """Something is mounted over the watched directory and taken away again."""
    incoming = root / "incoming"
    async with open_watcher(incoming, limit=0) as watcher:
        upload(incoming / "before.log")
        await expect(watcher, "before.log")
        mount("mount", "-t", "tmpfs", "none", incoming)
        upload(incoming / "over.log")
        await expect(watcher, "over.log")
        mount("umount", incoming)
        upload(incoming / "after.log")
        await expect(watcher, "after.log")


async def watched(root: Path) -> None:
    """Return a file arrives while the system gives no watch at first; say how it is watched."""
    incoming = root / "incoming"
    async with open_watcher(incoming, limit=0) as watcher:
        print(watcher.mode, flush=True)
        await trio.sleep(2)
        upload(incoming / "a.log")
        await expect(watcher, "a.log")
        while not watcher.value("watch_mode", mode="inotify"):
            await trio.sleep(1)
        assert not watcher.value("watch_mode", mode="poll")
        await watcher.see_events()
        print("events", flush=True)


async def listed(root: Path) -> None:
    """Process the file that exists at start."""
    async with open_watcher(root / "incoming", limit=0) as watcher:
        print(*await watcher.finish(1), flush=True)


def refuse(root: Path, name: str) -> Path:
    """Refuse one file."""
    incoming, failed = root / "incoming", root / "failed"
    known = identity((incoming / name).lstat())
    where = quarantine(incoming, failed, RefusedFile(name, known, REFUSED, "n", "t"))
    assert isinstance(where, Path)
    return where


async def refuse_all(root: Path) -> None:
    """Refuse every file of the spool."""
    for name in sorted(os.listdir(root / "incoming")):  # noqa: PTH208
        print(refuse(root, name).relative_to(root), flush=True)
    await trio.lowlevel.checkpoint()


async def refuse_together(root: Path) -> None:
    """Refuse all files of the spool in one batch."""
    names = sorted(os.listdir(root / "incoming"))  # noqa: PTH208
    files = [
        RefusedFile(name, identity_at(root / "incoming" / name), REFUSED, "n", "t")
        for name in names
    ]
    results = quarantine_all(root / "incoming", root / "failed", files)
    assert all(isinstance(result, Path) for result in results), results
    await trio.lowlevel.checkpoint()


async def other_filesystem(root: Path) -> None:
    """Refuse entries of every type to a `failed` on a filesystem of its own, and back again."""
    incoming, failed = root / "incoming", root / "failed"
    failed.mkdir()
    mount("mount", "-t", "tmpfs", "-o", "size=64k", "none", failed)
    (incoming / "file.log").write_text("content")
    os.utime(incoming / "file.log", (1000, 1000))
    os.mkfifo(incoming / "fifo.log")
    (incoming / "link.log").symlink_to("/etc/passwd")
    (incoming / "large.log").write_bytes(bytes(200_000))
    (incoming / "directory.log").mkdir()
    for name in ("file.log", "fifo.log", "link.log", "large.log", "directory.log"):
        try:
            where = refuse(root, name)
        except OSError as error:
            print(name, error.strerror, sorted(p.name for p in failed.glob(".*")))
        else:
            print(where.name, oct(where.lstat().st_mode >> 12), int(where.lstat().st_mtime))
    print("left:", *sorted(os.listdir(incoming)))  # noqa: PTH208
    moved = requeue(failed, incoming, lambda record: record.name == "file.log")
    print("back:", moved, (incoming / "file.log").read_text(), len(list(failed.glob("file*"))))
    await trio.lowlevel.checkpoint()


async def full_disk(root: Path) -> None:
    """Refuse files on a filesystem that has no byte and no inode left."""
    mount("mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "none", root)
    incoming, failed = root / "incoming", root / "failed"
    incoming.mkdir()
    failed.mkdir()
    for number in range(5):
        (incoming / f"{number}.log").write_text("x")
    try:
        (root / "filler").write_bytes(bytes(1_000_000))
    except OSError as error:
        print(error.strerror)
    if sys.argv[3:] == ["inodes"]:
        for number in range(100):
            try:
                (root / f"inode{number}").symlink_to("x")
            except OSError as error:
                print(error.strerror)
                break
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    await refuse_all(root)
    print("leaked:", len(os.listdir("/proc/self/fd")) - before)  # noqa: PTH208
    print("left:", *os.listdir(incoming))  # noqa: PTH208


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    "mounted-over": mounted_over,
    "listed": listed,
    "watched": watched,
    "refuse-all": refuse_all,
    "refuse-together": refuse_together,
    "other-filesystem": other_filesystem,
    "full-disk": full_disk,
}

if __name__ == "__main__":
    trio.run(SCENARIOS[sys.argv[1]], Path(sys.argv[2]), clock=MockClock(rate=20))
