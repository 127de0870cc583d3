"""A sound installation, for tests of `relayd check` that break it."""

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import trio

from relayd.commands import cli
from relayd.commands.check.account import find_account
from relayd.commands.check.report import as_lines
from relayd.commands.check.runner import examine
from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.daemon import Site
from tests.support.ports import free_port
from tests.support.signing import make_key_and_cert

#: Directories that exist before relayd starts.
DIRECTORIES = (
    *("reports/incoming", "reports/failed", "shared-files", "shared-folder"),
    *("inventories/incoming", "inventories/accepted-nodes-updates", "inventories/failed"),
)
NODES = ("root", "node1")


@dataclass(frozen=True)
class Checked:
    """The output of `relayd check`, line by line, and its exit code."""

    code: int
    lines: list[str]
    stderr: str

    @property
    def findings(self) -> list[str]:
        """All lines but the last, which counts them."""
        return self.lines[:-1]


def service_user() -> str:
    """A user with few permissions: another one as root, else the current one."""
    return "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def open_site(database: ConnectionInfo) -> Iterator[Site]:
    """A root server's files, in a directory that every user can reach, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="relayd-checked-"))
    try:
        directory.chmod(0o755)
        site = Site(
            directory, free_port(), database, {name: make_key_and_cert(name) for name in NODES}
        )
        site.extra = {
            "processing.inventory": f'directory = "{directory / "inventories"}"',
            "remote_run": f'command = "{make_command(directory)}"\nuse_sudo = false',
            "shared_files": f'path = "{directory / "shared-files"}"',
            "shared_folder": f'path = "{directory / "shared-folder"}"',
        }
        for name in DIRECTORIES:
            (directory / name).mkdir(parents=True)
        site.write()
        give(directory)
        yield site
    finally:
        _take_back(directory)
        shutil.rmtree(directory)


def make_command(directory: Path) -> Path:
    """Return a program in place of the one that starts agents."""
    path = directory / "rudder"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def give(directory: Path) -> None:
    """Makes the service user the owner of everything below, except the command."""
    if os.geteuid() != 0:
        return
    owner = pwd.getpwnam(service_user())
    for path in [directory, *directory.rglob("*")]:
        if path.name != "rudder":
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _take_back(directory: Path) -> None:
    """Restores permissions that a test took away, which cleaning up needs without root."""
    parents = {directory / name.partition("/")[0] for name in DIRECTORIES}
    for path in (directory, *parents, *(directory / name for name in DIRECTORIES)):
        if path.is_dir():
            path.chmod(0o755)


def check(site: Site, *options: str, command: str = "check") -> Checked:
    """Run the command line on a site; blocks."""
    out, err = StringIO(), StringIO()
    arguments = [command, "-c", str(site.conf), *_users(), *options]
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert isinstance(end.value.code, int)
    return Checked(end.value.code, out.getvalue().splitlines(), err.getvalue())


async def check_beside(site: Site, *options: str) -> Checked:
    """Check while the test plays the other side; with options, as a process of its own."""
    if not options:
        account = find_account(service_user())
        report = await examine(site.conf, account, lambda _pending: None, account)
        return Checked(0 if report.sound else 1, "\n".join(as_lines(report)).splitlines(), "")
    done = await trio.run_process(
        check_command(site, *options), capture_stdout=True, capture_stderr=True, check=False
    )
    return Checked(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode())


def check_command(site: Site, *options: str) -> list[str]:
    """Return the command line for a process."""
    command = [sys.executable, "-m", "relayd", "check", "-c", str(site.conf)]
    return [*command, *_users(), *options]


def _users() -> list[str]:
    """The same user for relayd and for the web server, whatever runs on this machine."""
    return ["--user", service_user(), "--web-user", service_user()]


def edit_nodes(site: Site, **nodes: dict[str, str] | None) -> None:
    """Change entries of the nodes list; None removes one."""
    known = json.loads(site.nodes_list.read_text())
    for name, entry in nodes.items():
        known.pop(name, None)
        if entry is not None:
            known[name] = entry
    site.nodes_list.write_text(json.dumps(known))
