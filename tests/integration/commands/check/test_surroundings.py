"""What the machine around an installation does to it is told: mounts, clock, sudo, ports."""

import json
import os
import pty
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from relayd.commands.demo.postgres import schema
from relayd.commands.demo.postgres.server import ConnectionInfo, Server
from tests.support import postgres
from tests.support.checked import (
    Checked,
    check,
    check_beside,
    check_command,
    open_site,
    service_user,
)
from tests.support.clock import ShiftedClock
from tests.support.daemon import Site, open_daemon
from tests.support.misconfigured import conf, fill, rewrite, verify
from tests.support.project import ROOT

NOWHERE: Final = ConnectionInfo("127.0.0.1", 1, "rudder", "c4nary-p4ssword", "rudder")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and become others")


@pytest.fixture
def site(database: postgres.Database) -> Iterator[Site]:
    """A root server in which nothing is wrong."""
    with open_site(database.rudder) as site:
        yield site


def run(site: Site, *prepare: str, env: Mapping[str, str] | None = None) -> Checked:
    """Runs the check as a process, in mounts of its own that shell commands change first."""
    command = check_command(site)
    if prepare:
        script = " && ".join([*prepare, 'exec "$@"'])
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return Checked(done.returncode, done.stdout.splitlines(), done.stderr)


@as_root
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "size=32m",
            (
                "error: {root}/reports/incoming: 32 MiB are free on {root}/reports."
                " Mend: free space on {root}/reports, or make it larger"
            ),
        ),
        (
            "size=1g,nr_inodes=500",
            (
                "~error: {root}/reports/incoming: \\d+ inodes are free on {root}/reports."
                " Mend: remove files on {root}/reports, or make it anew with more inodes"
            ),
        ),
    ],
    ids=["space", "inodes"],
)
def test_a_full_disk_is_told(site: Site, options: str, line: str) -> None:
    """A file system of the spool without space or inodes is an error."""
    done = run(site, f"mount -t tmpfs -o {options} none {site.root}/reports")
    verify(done, (line,), site)


@as_root
def test_a_read_only_mount_is_told(site: Site) -> None:
    """A spool that is mounted read-only is told as that, not as a mode to change."""
    reports = site.root / "reports"
    done = run(site, f"mount --bind {reports} {reports}", f"mount -o remount,ro,bind {reports}")
    mend = "mount it for writing: mount -o remount,rw $(findmnt -n -o TARGET -T {root}/reports/"
    lines = tuple(
        f"error: {{root}}/reports/{name}: its file system is mounted read-only. Mend: {mend}{name})"
        for name in ("incoming", "failed")
    )
    verify(done, lines, site)


@as_root
def test_another_mount_is_told(site: Site) -> None:
    """Refused files that cannot be renamed from `incoming` to `failed` are a warning."""
    bind = f"mount --bind {site.root}/inventories/failed {site.root}/reports/failed"
    line = (
        "~warning: {root}/reports/incoming: {root}/reports/failed is on another mount: refused"
        " files are copied instead of renamed."
        " Mend: have both on one mount: .* is not {root}/reports/failed"
    )
    verify(run(site, bind), (line,), site)


def test_a_clock_that_is_off_is_told(site: Site, tmp_path: Path) -> None:
    """A clock ten minutes ahead of the database's is an error, told with the difference."""
    clock = ShiftedClock(tmp_path)
    clock.set(600)
    line = (
        "~error: the database {database}: its clock is (599|600|601) s behind this one."
        " Mend: let NTP keep both clocks right \\(chronyd, systemd-timesyncd\\)"
    )
    verify(run(site, env=clock.env), (line,), site)


def test_a_clock_of_another_age_is_told(site: Site, tmp_path: Path) -> None:
    """A clock before this release existed is told by its year."""
    clock = ShiftedClock(tmp_path)
    clock.set(-20 * 365.25 * 86_400)
    line = (
        "~error: this machine: its clock says that it is 20\\d\\d."
        " Mend: let NTP keep both clocks right \\(chronyd, systemd-timesyncd\\)"
    )
    verify(run(site, env=clock.env), (line,), site)


@as_root
@pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed")
def test_sudo_is_asked_for_the_service_user(site: Site, database: postgres.Database) -> None:
    """The rule that lets the service user run the command is missed, and found when it is there."""
    conf(remote_run="use_sudo = true")(site, database)
    rule = fill("{user} ALL=(root) NOPASSWD: {root}/rudder remote run *", site)
    alone = "mount -t tmpfs -o mode=0750 none /etc/sudoers.d"
    line = (
        "error: sudo: sudo does not let user {user} run {root}/rudder remote run without a"
        f" password. Mend: add to /etc/sudoers.d/rudder-relayd: {rule}"
    )
    verify(run(site, alone), (line,), site)
    file = site.root / "rule"
    file.write_text(f"{rule}\n")
    there = f"install -m 0440 -o root -g root {file} /etc/sudoers.d/rudder-relayd"
    verify(run(site, alone, there), (), site)


@as_root
def test_a_command_that_the_user_may_not_run_is_told(
    site: Site, database: postgres.Database
) -> None:
    """Without sudo the command must be one that the service user may run."""
    (site.root / "rudder").chmod(0o700)
    line = (
        "error: {root}/rudder: user {user} may not run it."
        " Mend: chmod a+rx {root}/rudder, or set remote_run.use_sudo to true"
    )
    verify(check(site), (line,), site)


@as_root
def test_a_file_that_only_root_can_read_is_told(site: Site) -> None:
    """A main.conf that root can read and the service user cannot is an error."""
    main = site.conf / "main.conf"
    os.chown(main, 0, 0)
    line = (
        "error: {conf}/main.conf: user {user} may not read it."
        " Mend: chgrp {group} {conf}/main.conf && chmod g+r {conf}/main.conf"
    )
    verify(check(site), (line,), site)


@as_root
def test_access_lists_count(site: Site) -> None:
    """A right that an access control list (acl(5)) gives is seen, although the mode denies it."""
    main = site.conf / "main.conf"
    os.chown(main, 0, 0)
    user = pwd.getpwnam(service_user()).pw_uid
    entries = ((1, 6, -1), (2, 4, user), (4, 4, -1), (16, 4, -1), (32, 0, -1))
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, owner & 0xFFFFFFFF) for tag, rights, owner in entries
    )
    try:
        os.setxattr(main, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access lists here: {error.strerror}")
    verify(check(site), (), site)


@as_root
def test_who_cannot_become_the_service_user_guesses_nothing(site: Site) -> None:
    """Run by another user than root, the rights of a third one are skipped, not guessed."""
    program = f"""
import os, sys
from relayd.commands import cli
def check(user):
    try:
        cli.main(["check", "-c", {str(site.conf)!r}, "--user", user])
    except SystemExit as end:
        print("exit", end.code)
check("daemon")
owner = os.stat({str(site.conf)!r}).st_uid
os.setresuid(owner, owner, owner)
os.environ["HOME"] = "/nowhere"
check("daemon")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-3:] == [
        (
            "skipped: files and directories: only root or daemon itself can tell what daemon may"
            " do. Mend: run this as root, or name another user with --user"
        ),
        "11 checks for user daemon: 1 skipped",
        "exit 0",
    ]


@as_root
def test_a_port_that_takes_root_is_told(site: Site, database: postgres.Database) -> None:
    """A port that the service user may not listen on is an error."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("every user may listen on every port here")
    conf(general=f'listen = "127.0.0.1:{first - 1}"')(site, database)
    line = (
        f"error: general.listen 127.0.0.1:{first - 1}: user {{user}} may not listen on ports below"
        f" {first}. Mend: take a port from {first} on"
    )
    verify(check(site), (line,), site)


async def test_a_running_relayd_is_left_alone(site: Site) -> None:
    """Beside a running relayd the check finds nothing wrong, and relayd goes on."""
    async with open_daemon(site) as daemon:
        done = await check_beside(site)
        verify(done, (), site)
        assert (await daemon.get("/rudder/relay-api/1/system/info"))[0] == 200
        assert await daemon.stop() == 0


def test_a_silent_listener_is_not_judged(site: Site, database: postgres.Database) -> None:
    """Whoever listens and does not answer may be relayd or not: that is said, no error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.port = listener.getsockname()[1]
        rewrite(site)
        line = (
            "skipped: general.listen 127.0.0.1:{port}: a program listens there and does not answer:"
            " a relayd that hangs, or another one."
            " Mend: see who it is: ss -ltnp sport = :{port}"
        )
        verify(check(site), (line,), site)


def test_a_silent_database_is_told_in_time(site: Site) -> None:
    """A database that takes the connection and says nothing is told, not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.database = replace(site.database, port=listener.getsockname()[1])
        rewrite(site)
        line = (
            "error: {database}: the database did not answer in time. Mend: see what is between"
            " here and there: a firewall, a route, a server that hangs"
        )
        verify(check(site), (line,), site, lonely=True)


def test_an_interrupt_ends_it(site: Site) -> None:
    """SIGINT ends a check that waits for somebody, with the exit code of an interrupted command."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.database = replace(site.database, port=listener.getsockname()[1])
        rewrite(site)
        with subprocess.Popen(
            check_command(site), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            connection = listener.accept()[0]
            process.send_signal(signal.SIGINT)
            assert process.communicate() == (b"", b"")
        connection.close()
        assert process.returncode == 130


def test_an_encoding_that_cannot_hold_everything_is_told(
    site: Site, postgres_server: Server
) -> None:
    """A database that is not in UTF-8 is an error."""
    postgres_server.psql(
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", database="postgres"
    )
    try:
        postgres_server.psql(schema.RUDDER_SCHEMA, database="latin")
        postgres_server.psql(schema.RUDDER_RIGHTS, database="latin")
        site.database = replace(site.database, database="latin")
        rewrite(site)
        line = (
            "error: {database}: its encoding is LATIN1: it cannot hold every text of a run log."
            " Mend: dump it, and restore it into one with UTF8"
        )
        verify(check(site), (line,), site)
    finally:
        postgres_server.psql("DROP DATABASE latin WITH (FORCE)", database="postgres")


def test_the_document_has_a_stable_shape() -> None:
    """With --json there is one document: the result of each check, and every finding's fields."""
    with open_site(NOWHERE) as site:
        (site.root / "reports" / "failed").chmod(0o555)
        done = check(site, "--json")
    document = json.loads("\n".join(done.lines))
    assert document.keys() == {"relayd", "directory", "user", "sound", "checks", "findings"}
    assert (document["directory"], document["user"]) == (str(site.conf), service_user())
    assert (document["sound"], done.code) == (False, 1)
    checks = document["checks"]
    assert list(checks) == [
        *("configuration", "files", "listen", "spool", "nodes", "certificates"),
        *("database", "upstream", "remote_run", "selinux", "clock"),
    ]
    assert (checks["database"], checks["spool"], checks["nodes"]) == ("error", "error", "ok")
    assert [finding["code"] for finding in document["findings"]][:2] == [
        "spool.permissions",
        "database.unreachable",
    ]
    for finding in document["findings"]:
        assert finding.keys() == {"level", "code", "where", "what", "mend"}
        assert all(isinstance(text, str) and text for text in finding.values())


@pytest.mark.history(65)
def test_no_password_is_shown(postgres_server: Server) -> None:
    """Whatever goes wrong, no password is told, neither in lines nor in the document."""
    wrong = replace(postgres_server.rudder, password="c4nary-p4ssword")
    with open_site(wrong) as site:
        site.extra["output.upstream"] = (
            f'host = "127.0.0.1"\npassword = "c4nary-p4ssword"\n'
            f'server_certificate_file = "{site.certificates}"'
        )
        site.extra["general"] = "https_port = 1"
        rewrite(site)
        for options in ((), ("--json",)):
            done = check(site, *options)
            assert done.code == 1
            assert "c4nary" not in "\n".join([*done.lines, done.stderr])


def test_a_terminal_gets_a_table_and_the_progress() -> None:
    """On a terminal there is a table in colours, and what is being checked is shown meanwhile."""
    with open_site(NOWHERE) as site:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            check_command(site),
            cwd=ROOT,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        )
        os.close(theirs)
        shown = read_all(ours).decode()
        assert process.wait() == 1
    assert "Checking " in shown
    assert "what is wrong, and how to mend it" in shown
    assert "start PostgreSQL there, or correct output.database.url" in shown
    assert "\x1b[1;31merror" in shown
    assert "11 checks for user" in shown


def read_all(descriptor: int) -> bytes:
    """Reads a pseudo-terminal until its other side is closed."""
    parts = []
    try:
        while data := os.read(descriptor, 65_536):
            parts.append(data)
    except OSError:  # EIO is how the end looks here
        pass
    finally:
        os.close(descriptor)
    return b"".join(parts)


def test_an_unknown_user_is_a_wrong_command_line(site: Site) -> None:
    """A user that does not exist ends with 3, like every mistake on the command line."""
    done = check(site, "--user", "no-such-user")
    assert (done.code, done.lines) == (3, [])
    assert done.stderr.startswith("error: There is no user no-such-user. See: ")
