"""Faults of the machine around an installation: mounts, clock, sudo, ports."""

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
from collections.abc import Mapping
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


def run(site: Site, *prepare: str, env: Mapping[str, str] | None = None) -> Checked:
    """Runs the check as a process, in a mount namespace that shell commands prepare."""
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
                "error: {root}/reports/incoming: only 32 MiB are free on {root}/reports."
                " Fix: free space on {root}/reports, or enlarge it"
            ),
        ),
        (
            "size=1g,nr_inodes=500",
            (
                "~error: {root}/reports/incoming: only \\d+ inodes are free on {root}/reports."
                " Fix: remove files on {root}/reports, or recreate it with more inodes"
            ),
        ),
    ],
    ids=["space", "inodes"],
)
def test_a_full_disk_is_reported(site: Site, options: str, line: str) -> None:
    """A file system of the spool without space or inodes is an error."""
    done = run(site, f"mount -t tmpfs -o {options} none {site.root}/reports")
    verify(done, (line,), site)


@as_root
def test_a_read_only_mount_is_reported(site: Site) -> None:
    """A spool that is mounted read-only is reported as such, not as a wrong mode."""
    reports = site.root / "reports"
    done = run(site, f"mount --bind {reports} {reports}", f"mount -o remount,ro,bind {reports}")
    fix = "remount it: mount -o remount,rw $(findmnt -n -o TARGET -T {root}/reports/"
    lines = tuple(
        f"error: {{root}}/reports/{name}: its file system is mounted read-only. Fix: {fix}{name})"
        for name in ("incoming", "failed")
    )
    verify(done, lines, site)


@as_root
def test_another_mount_is_reported(site: Site) -> None:
    """Refused files that cannot be renamed from `incoming` to `failed` are a warning."""
    bind = f"mount --bind {site.root}/inventories/failed {site.root}/reports/failed"
    line = (
        "~warning: {root}/reports/incoming: {root}/reports/failed is on another mount, so refused"
        " files are copied instead of renamed."
        " Fix: put both on one mount; they are on .* and {root}/reports/failed"
    )
    verify(run(site, bind), (line,), site)


def test_a_wrong_clock_is_reported(site: Site, tmp_path: Path) -> None:
    """A clock ten minutes ahead of the database's is an error that gives the difference."""
    clock = ShiftedClock(tmp_path)
    clock.set(600)
    line = (
        "~error: the database {database}: its clock is (599|600|601) s behind this one."
        " Fix: synchronize both clocks with NTP \\(chronyd, systemd-timesyncd\\)"
    )
    verify(run(site, env=clock.env), (line,), site)


def test_an_impossible_year_is_reported(site: Site, tmp_path: Path) -> None:
    """A clock before the year of this release is an error that gives the year."""
    clock = ShiftedClock(tmp_path)
    clock.set(-20 * 365.25 * 86_400)
    line = (
        "~error: this machine: its clock shows the year 20\\d\\d."
        " Fix: synchronize both clocks with NTP \\(chronyd, systemd-timesyncd\\)"
    )
    verify(run(site, env=clock.env), (line,), site)


@pytest.mark.fault("F37")
@as_root
@pytest.mark.skipif(shutil.which("sudo") is None, reason="sudo is not installed")
def test_sudo_is_checked_for_the_service_user(site: Site, database: postgres.Database) -> None:
    """A missing sudo rule is an error whose fix is the shipped file; both its rules are tried."""
    conf(remote_run="use_sudo = true")(site, database)
    shipped = (ROOT / "conf" / "sudoers").read_text()
    rules = shipped.replace("/opt/rudder/bin/rudder", "{root}/rudder").replace(
        "rudder-relayd ALL", "{user} ALL"
    )
    rules = rules.replace("Defaults:rudder-relayd", "Defaults:{user}")
    alone = "mount -t tmpfs -o mode=0750 none /etc/sudoers.d"
    line = (
        "error: sudo: sudo does not let user {user} run without a password: {root}/rudder remote"
        " run %s-- localhost. Fix: install the sudo rules shipped with relayd as"
        " /etc/sudoers.d/rudder-relayd, mode 0440,"
        " with user {user} and command {root}/rudder in its rules"
    )
    verify(run(site, alone), (line % "",), site)
    file = site.root / "rules"
    add_rules = f"install -m 0440 -o root -g root {file} /etc/sudoers.d/rudder-relayd"
    for text, lines in ((rules, ()), (rules.replace("run -D", "run -X"), (line % "-D check ",))):
        file.write_text(fill(text, site))
        verify(run(site, alone, add_rules), lines, site)


@as_root
def test_a_command_that_the_user_may_not_run_is_reported(
    site: Site, database: postgres.Database
) -> None:
    """Without sudo the command must be one that the service user may run."""
    (site.root / "rudder").chmod(0o700)
    line = (
        "error: {root}/rudder: user {user} may not run it."
        " Fix: chmod a+rx {root}/rudder, or set remote_run.use_sudo to true"
    )
    verify(check(site), (line,), site)


@as_root
def test_a_control_socket_of_another_user_is_reported(
    site: Site, database: postgres.Database
) -> None:
    """Who owns its directory, or listens on it, could answer operators in place of relayd."""
    stranger, place = pwd.getpwnam("daemon").pw_uid, site.root / "run"
    place.mkdir(mode=0o770)
    os.chown(place, stranger, pwd.getpwnam(service_user()).pw_gid)
    place.chmod(0o770)
    conf(general='control_socket = "{root}/run/x"')(site, database)
    other = "set general.control_socket to another path"
    lines = (
        (
            f"error: {{root}}/run/x: process {os.getpid()} of user daemon listens on it, not"
            f" relayd. Fix: find out whose it is, and {other}"
        ),
        (
            "warning: {root}/run: belongs to user daemon, who may replace the control socket."
            f" Fix: {other}; leave {{root}}/run as it is, for it is not relayd's own"
        ),
    )
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(stranger)
        try:
            listener.bind(f"{place}/x")
            listener.listen()
        finally:
            os.seteuid(0)
        verify(check(site), lines, site)


@as_root
def test_a_file_that_only_root_can_read_is_reported(site: Site) -> None:
    """A main.conf that root can read and the service user cannot is an error."""
    main = site.conf / "main.conf"
    os.chown(main, 0, 0)
    line = (
        "error: {conf}/main.conf: user {user} may not read it."
        " Fix: chgrp {group} {conf}/main.conf && chmod g+r {conf}/main.conf"
    )
    verify(check(site), (line,), site)


@as_root
def test_access_lists_count(site: Site) -> None:
    """A permission from an access control list (acl(5)) counts, even if the mode denies it."""
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
def test_permissions_of_a_third_user_are_skipped(site: Site) -> None:
    """Without root, the permissions of another user are skipped, not guessed."""
    program = f"""
import os, sys
from relayd.commands import cli
from relayd.commands.check.checks import openssl
openssl.is_old = lambda text: False
def check(user):
    try:
        cli.main(["check", "-c", {str(site.conf)!r}, "--user", user, "--web-user", user])
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
            "skipped: files and directories: only root and daemon can check the permissions of"
            " daemon. Fix: run this check as root, or give another user with --user"
        ),
        "18 checks for user daemon: 2 warnings, 1 skipped",
        "exit 0",
    ]


@as_root
def test_a_privileged_port_is_reported(site: Site, database: postgres.Database) -> None:
    """A port that the service user may not listen on is an error."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("every user may listen on every port here")
    conf(general=f'listen = "127.0.0.1:{first - 1}"')(site, database)
    line = (
        f"error: general.listen 127.0.0.1:{first - 1}: user {{user}} may not listen on ports below"
        f" {first}. Fix: use a port from {first} on"
    )
    verify(check(site), (line,), site)


async def test_a_running_relayd_is_left_alone(site: Site) -> None:
    """With a running relayd the check has no findings, and relayd keeps running."""
    async with open_daemon(site) as daemon:
        done = await check_beside(site)
        verify(done, (), site)
        assert (await daemon.get("/rudder/relay-api/1/system/info"))[0] == 200
        assert await daemon.stop() == 0


def test_a_silent_listener_is_not_judged(site: Site, database: postgres.Database) -> None:
    """A program that listens but does not answer may be relayd, so it is no error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.port = listener.getsockname()[1]
        rewrite(site)
        line = (
            "skipped: general.listen 127.0.0.1:{port}: a program listens there but does not answer:"
            " another program, or relayd hangs."
            " Fix: find it: ss -ltnp sport = :{port}"
        )
        verify(check(site), (line,), site)


def test_a_silent_database_is_reported_in_time(site: Site) -> None:
    """A database that accepts the connection and sends nothing is reported at the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.database = replace(site.database, port=listener.getsockname()[1])
        rewrite(site)
        line = (
            "error: {database}: no answer in time. Fix: check the firewall"
            " and the route to the server, and whether it hangs"
        )
        verify(check(site), (line,), site, lonely=True)


def test_an_interrupt_ends_it(site: Site) -> None:
    """SIGINT ends a waiting check with the exit code of an interrupted command."""
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


def test_an_unsuitable_encoding_is_reported(site: Site, postgres_server: Server) -> None:
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
            "error: {database}: its encoding LATIN1 cannot represent all text of run logs."
            " Fix: dump it and restore it into one with UTF8"
        )
        verify(check(site), (line,), site)
    finally:
        postgres_server.psql("DROP DATABASE latin WITH (FORCE)", database="postgres")


def test_the_document_has_a_stable_shape() -> None:
    """With --json there is one document: the result of each check, and the findings."""
    with open_site(NOWHERE) as site:
        (site.root / "reports" / "failed").chmod(0o555)
        done = check(site, "--json")
    document = json.loads("\n".join(done.lines))
    assert document.keys() == {"relayd", "directory", "user", "sound", "checks", "findings"}
    assert (document["directory"], document["user"]) == (str(site.conf), service_user())
    assert (document["sound"], done.code) == (False, 1)
    checks = document["checks"]
    assert list(checks) == [
        *("configuration", "files", "listen", "daemon", "control", "state", "spool", "queue"),
        *("webserver", "server", "nodes", "certificates"),
        *("database", "upstream", "remote_run", "selinux", "openssl", "clock"),
    ]
    assert (checks["database"], checks["spool"], checks["nodes"]) == ("error", "error", "ok")
    assert [finding["code"] for finding in document["findings"]][:2] == [
        "spool.permissions",
        "database.unreachable",
    ]
    for finding in document["findings"]:
        assert finding.keys() == {"level", "code", "where", "what", "fix"}
        assert all(isinstance(text, str) and text for text in finding.values())


def test_what_was_not_checked_is_not_ok() -> None:
    """With an unusable main.conf, or without a nodes list, dependent checks are skipped."""
    with open_site(NOWHERE) as site:
        site.nodes_list.unlink()
        checks = json.loads("\n".join(check(site, "--json").lines))["checks"]
        assert (checks["nodes"], checks["certificates"]) == ("error", "skipped")
        (site.conf / "main.conf").write_text("[")
        checks = json.loads("\n".join(check(site, "--json").lines))["checks"]
        assert checks.pop("configuration") == "error"
        assert set(checks.values()) == {"skipped"}


@pytest.mark.history(65)
def test_no_password_is_shown(postgres_server: Server) -> None:
    """Whatever goes wrong, no password is shown, neither in lines nor in the document."""
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
    """A terminal gets a table in colours, and the running checks meanwhile."""
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
    assert "problem and fix" in shown
    assert "start PostgreSQL there, or correct output.database.url" in shown
    assert "\x1b[1;31merror" in shown
    assert "18 checks for user" in shown


def read_all(descriptor: int) -> bytes:
    """Reads a pseudo-terminal until its other side is closed."""
    parts = []
    try:
        while data := os.read(descriptor, 65_536):
            parts.append(data)
    except OSError:  # EIO marks the end
        pass
    finally:
        os.close(descriptor)
    return b"".join(parts)


def test_an_unknown_user_is_a_wrong_command_line(site: Site) -> None:
    """A user that does not exist ends with 3, like every mistake on the command line."""
    done = check(site, "--user", "no-such-user")
    assert (done.code, done.lines) == (3, [])
    assert done.stderr.startswith("error: User no-such-user does not exist. See: ")
