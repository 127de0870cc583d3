"""A machine to install on: this one's file system, with every change kept apart.

An overlay over `/` in a mount namespace of its own. Programs run in it by chroot; network, users'
numbers and process ids are those of the real machine. Nothing that happens in it outlives it.
What Rudder's packages or relayd's own may have left on the real machine is not in it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

#: Mounts an overlay over the whole machine ($1: scratch directory), and enters it.
OVERLAY: Final = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
cd "$1/root"
"""
#: Mounts it, says so, and holds the namespace until stdin ends.
_HOLD: Final = f"""
set -e
{OVERLAY}
for file in etc/passwd etc/shadow etc/group etc/gshadow; do
    ! grep -q '^rudder' "$file" || sed -i -e '/^rudder[^:]*:/d' "$file"
done
for path in opt/rudder var/rudder usr/lib/relayd; do
    [ ! -e "$path" ] || rm -r "$path"
done
cd /
echo ready
exec cat
"""


@dataclass(frozen=True)
class Machine:
    """A running overlay.

    Attributes:
        holder: process id of the one whose mount namespace it is.
        scratch: where in that namespace it is mounted.
        before: what differs from the real machine from the beginning.
    """

    holder: int
    scratch: Path
    before: frozenset[str] = frozenset()

    @property
    def outside(self) -> Path:
        """Its root directory, as this process sees it."""
        return Path(f"/proc/{self.holder}/root{self.scratch}/root")

    def wrapper(self, user: str | None = None) -> list[str]:
        """Return the command line that runs another one in here, as root or another user."""
        chroot = ["chroot", *([f"--userspec={user}"] if user else []), f"{self.scratch}/root"]
        return ["nsenter", f"--target={self.holder}", "--mount", *chroot]

    def run(
        self, *command: str, check: bool = True, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here, with a bare environment; returns its result and output."""
        result = subprocess.run(
            [*self.wrapper(user), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or result.returncode == 0, f"{command}: {result.stdout}"
        return result

    def shell(self, script: str, *arguments: str) -> str:
        """Run a shell script in here; returns what it prints."""
        return self.run("sh", "-euc", script, "sh", *arguments).stdout

    def share(self, path: Path) -> None:
        """Make a directory of the real machine the same in here."""
        script = 'mkdir -p "$2$1" && mount --rbind "$1" "$2$1"'
        enter = ["nsenter", f"--target={self.holder}", "--mount"]
        target = f"{self.scratch}/root"
        subprocess.run([*enter, "sh", "-euc", script, "sh", str(path), target], check=True)

    def changes(self) -> set[str]:
        """Paths that are not as they were at the beginning: what is new, changed or gone."""
        script = 'cd "$1/upper" && find . -printf "%y /%P\\n"'
        enter = ["nsenter", f"--target={self.holder}", "--mount"]
        command = [*enter, "sh", "-euc", script, "sh", str(self.scratch)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        pairs = [line.split(" ", 1) for line in found.splitlines()]
        found_paths = {path for kind, path in pairs if kind != "d" or not Path(path).is_dir()}
        return found_paths - self.before


def _missing() -> Sequence[str]:
    needed = ("chroot", "dpkg", "nsenter", "unshare")
    return [name for name in needed if shutil.which(name) is None]


@contextmanager
def open_machine(scratch: Path) -> Iterator[Machine]:
    """Run a machine until the block ends; skips the test where that is not possible.

    Args:
        scratch: an empty directory.
    """
    if missing := _missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("installing a package needs root")
    command = ["unshare", "--mount", "sh", "-c", _HOLD, "sh", str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"ready\n"
            machine = Machine(holder.pid, scratch)
            yield replace(machine, before=frozenset(machine.changes()))
        finally:
            holder.stdin.close()
            holder.wait()
