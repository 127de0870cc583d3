"""No fix touches what is not relayd's own."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from relayd.commands.check.account import find_account
from relayd.commands.check.checks.remote_run import _judge_owner, _judge_program
from relayd.commands.check.model import Access, Finding, Site
from relayd.commands.check.service_user.foreign import is_foreign
from relayd.commands.check.service_user.permissions import check_directory, check_file
from relayd.commands.check.settings.places import close_fix
from relayd.config.main_conf import Settings

#: Words of commands that change a file.
CHANGES: Final = re.compile(r"\b(chmod|chown|chgrp|usermod|mv|move|rm|rmdir|install|mount)\b")

FOREIGN: Final = (
    *("/", "/dev", "/dev/null", "/dev/shm/x", "/proc/1/status", "/sys/kernel", "/run", "/tmp"),
    *("/etc", "/etc/passwd", "/etc/ssl/certs", "/usr", "/usr/bin/env", "/usr/local/bin", "/bin/sh"),
    *("/var", "/var/lib", "/var/log", "/var/tmp", "/opt", "/home", "/home/anybody", "/root"),
)


def sites(path: Path) -> Iterator[Site]:
    """Sites that use a path for everything, with each kind of permissions on it."""
    old = Settings()
    change = msgspec.structs.replace
    settings = change(
        old,
        general=change(old.general, nodes_list_file=path),
        shared_files=change(old.shared_files, path=path),
    )
    account = msgspec.structs.replace(find_account(None), name="service", uid=4242)
    for kind in (None, "directory", "file", "other", "socket"):
        for blocked in (None, "/", "/var"):
            for link in (None, "/nowhere"):
                for read in (False, True):
                    access = Access(
                        path=str(path), kind=kind, blocked=blocked, link=link, read=read
                    )
                    yield Site(path, settings, "root", account, {path: access})


def findings(site: Site, path: Path) -> Iterator[Finding]:
    """All findings about permissions on a path."""
    yield from check_file(site, path, "x")
    yield from check_directory(site, path, "x", write=True)
    yield from check_directory(site, path, "x", write=False)


@pytest.mark.fault("F37")
@pytest.mark.parametrize("path", [Path(name) for name in FOREIGN], ids=str)
def test_no_fix_changes_what_is_not_relayds(path: Path) -> None:
    """Whatever is wrong with a path of the system, the fix is another path in its key."""
    assert is_foreign(path)
    status = os.stat_result((0o777, *[0] * 9))
    count = 0
    for site in sites(path):
        fixes = [finding.fix for finding in findings(site, path)]
        fixes += [close_fix(site, path, path), close_fix(site, path / "x", path)]
        fixes += [finding.fix for finding in _judge_program(path, status, "set the command")]
        fixes += [finding.fix for finding in _judge_owner(site, "sudo", path, status)]
        for fix in fixes:
            assert not CHANGES.search(fix), fix
        count += len(fixes)
    assert count


@pytest.mark.fault("F37")
def test_relayds_own_files_are_changed(tmp_path: Path) -> None:
    """Files and directories of an installation are none of the system's, links to those are."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    for directory in (own, shared):
        directory.mkdir()
    for directory in (own, shared):
        (directory / "file").touch()
    shared.chmod(0o1777)
    (own / "link").symlink_to("/dev/null")
    os.mkfifo(own / "fifo")
    assert [path.name for path in (own, own / "file", own / "missing") if is_foreign(path)] == []
    others = (shared, shared / "file", own / "link", own / "fifo")
    assert [path.name for path in others if not is_foreign(path)] == []
    for path in map(Path, ("/var/rudder/reports", "/opt/rudder/etc/relayd", "/run/rudder-relayd")):
        assert not is_foreign(path)
