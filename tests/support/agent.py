"""Commands that stand where `rudder` would be, and what becomes of their processes."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import trio

#: Prints its arguments, one to a line.
TELL = 'printf "%s\\n" "$@"'


def agent(path: Path, script: str) -> Path:
    """Return a shell script, executable."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return path


class Commands:
    """Child processes of this one that were started since it was made, zombies too."""

    def __init__(self) -> None:
        self._before = _children()

    def __call__(self) -> set[int]:
        """Their numbers."""
        return _children() - self._before


def _children() -> set[int]:
    children: set[int] = set()
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            children.update(map(int, (thread / "children").read_text().split()))
    return children


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def pid_in(path: Path) -> int:
    """Wait for a script to write a process number."""
    with trio.fail_after(30):
        while not (path.exists() and path.read_text().endswith("\n")):
            await trio.sleep(0.01)
    return int(path.read_text())


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    with trio.fail_after(30):
        while alive(pid):
            await trio.sleep(0.01)
