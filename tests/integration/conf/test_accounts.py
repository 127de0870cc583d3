"""Accounts, directories and sudo rules: what systemd and sudo make of the shipped files."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from relayd.remote_run.commands.by_command import CommandRunner
from relayd.remote_run.commands.runner import Order, Target
from tests.support.project import CONF

COMMAND: Final = Path("/opt/rudder/bin/rudder")
#: A private view of the machine with the account, the rules and a command that shows its arguments.
_VIEW: Final = """
set -e
for name in passwd shadow sudoers; do mount --bind "$1/$name" "/etc/$name"; done
mount -t tmpfs none /opt
mkdir -p /opt/rudder/bin
printf '#!/bin/sh\\nid -u; echo "$@"\\n' > /opt/rudder/bin/rudder
chmod 755 /opt/rudder/bin/rudder
shift
exec setpriv --reuid=64998 --regid=65534 --clear-groups "$@" < /dev/null
"""


def needs(program: str) -> None:
    """Skips the test where a program of the system is not installed."""
    if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return the root of a machine without our account."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\nrudder:x:64000:\n")
    return tmp_path


def test_accounts_can_be_made(machine: Path) -> None:
    """systemd-sysusers would make the account of relayd, a member of group rudder."""
    needs("systemd-sysusers")
    command = ["systemd-sysusers", "--dry-run", f"--root={machine}"]
    path = CONF / "sysusers.d" / "relayd.conf"
    (machine / "etc" / "group").write_text("root:x:0:\n")
    done = subprocess.run(
        [*command, "-"], input=path.read_text(), capture_output=True, text=True, check=True
    )
    assert "Creating group 'rudder'" in done.stderr
    assert "Creating user 'rudder-relayd'" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_directories_can_be_made(machine: Path) -> None:
    """systemd-tmpfiles makes the spool for group rudder alone; what exists stays as it is."""
    needs("systemd-tmpfiles")
    there = machine / "var" / "rudder" / "reports"
    there.mkdir(parents=True)
    there.chmod(0o700)
    path = CONF / "tmpfiles.d" / "relayd.conf"
    command = ["systemd-tmpfiles", "--create", f"--root={machine}", "-"]
    subprocess.run(command, input=path.read_bytes(), check=True, capture_output=True)
    incoming = (there / "incoming").stat()
    assert (incoming.st_gid, stat.S_IMODE(incoming.st_mode)) == (64000, 0o2770)
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert (machine / "var/rudder/inventories/accepted-nodes-updates").is_dir()


def test_sudo_rules_are_valid() -> None:
    """The shipped rules pass visudo."""
    needs("visudo")
    done = subprocess.run(
        ["visudo", "-cf", str(CONF / "sudoers")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def view(tmp_path: Path) -> Path:
    """Return the files of a machine with our account and the shipped sudo rules."""
    if os.geteuid() != 0:
        pytest.skip("only root can show sudo other rules")
    needs("sudo")
    entry = "rudder-relayd:x:64998:65534::/:/usr/sbin/nologin\n"
    (tmp_path / "passwd").write_text(Path("/etc/passwd").read_text() + entry)
    shadow = tmp_path / "shadow"
    shadow.write_text("root:*:19000::::::\nrudder-relayd:!:19000::::::\n")
    shadow.chmod(0o600)
    (tmp_path / "sudoers").write_bytes((CONF / "sudoers").read_bytes())
    (tmp_path / "sudoers").chmod(0o440)
    return tmp_path


def run_as_relayd(view: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Return what a command gives that the account of relayd runs."""
    whole = ["unshare", "--mount", "sh", "-c", _VIEW, "sh", str(view), *command]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("conditions", [(), ("audit", "a_1")])
def test_sudo_runs_what_relayd_sends(view: Path, conditions: tuple[str, ...]) -> None:
    """The command line of a remote run passes the rules, and root runs it."""
    order = Order((Target("a", "a.example.com"), Target("b", "::1")), conditions)
    command = CommandRunner(COMMAND, use_sudo=True).arguments(order)
    done = run_as_relayd(view, command)
    assert done.stdout.splitlines() == ["0", " ".join(command[2:])], done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *("agent run", "remote run", "remote run --", "remote run a", "remote run --all -- a"),
        *("remote run -D a --other b -- c", "remote run -D a;b -- c", "remote run -- a b", ""),
        *("remote run -D  -- a", "remote run -- a\nb c", "server remote run -- a"),
    ],
)
def test_sudo_runs_nothing_else(view: Path, arguments: str) -> None:
    """Other commands, options and arguments are refused."""
    done = run_as_relayd(view, ["sudo", "-n", str(COMMAND), *arguments.split(" ")])
    assert done.returncode == 1
    assert done.stdout == ""
    assert "password is required" in done.stderr
    other = run_as_relayd(view, ["sudo", "-n", "/bin/sh", "-c", "id"])
    assert (other.returncode, other.stdout) == (1, "")
