"""The command that starts agents on demand, and the permission to run it."""

import os
import shutil
import stat
from pathlib import Path

from relayd.commands.check.account import Account
from relayd.commands.check.model import Finding, Site, error, skipped, warning
from relayd.commands.check.service_user.child import run
from relayd.commands.check.service_user.permissions import quoted
from relayd.remote_run.helper.protocol import SEARCH_PATH


async def check(site: Site) -> list[Finding]:
    """Check the command if remote runs are enabled."""
    remote_run = site.settings.remote_run
    if not remote_run.enabled:
        return []
    if remote_run.helper is not None:
        return _check_helper(site, remote_run.helper)
    command = Path(remote_run.command)
    if not command.is_absolute():
        return [_relative(remote_run.command)]
    found = _check_command(site, command, sudo=remote_run.use_sudo)
    if found or not remote_run.use_sudo or site.account.uid == 0:
        return found
    return await _check_sudo(site.account, command)


def _relative(command: str) -> Finding:
    """Return what can be said about a path that means something else to this process."""
    what = "is a relative path: which command it is depends on the directory that relayd starts in"
    return warning(
        "remote_run.command", command, what, "set remote_run.command to an absolute path"
    )


def _check_helper(site: Site, helper: Path) -> list[Finding]:
    """Check the socket of the root helper, which has a command of its own."""
    fix = "systemctl enable --now rudder-relayd-helper.socket, or remove remote_run.helper"
    try:
        status = helper.stat()
    except OSError as failure:
        what = f"not accessible: {failure.strerror}"
        return [error("remote_run.helper", helper, what, fix)]
    if not stat.S_ISSOCK(status.st_mode):
        return [error("remote_run.helper", helper, "is not a socket", fix)]
    access = None if site.access is None else site.access.get(helper)
    if access is not None and not access.write:
        what = f"user {site.account.name} may not connect to it"
        fix = f"set SocketUser={site.account.name} in rudder-relayd-helper.socket"
        return [error("remote_run.helper", helper, what, fix)]
    return []


def _check_command(site: Site, command: Path, *, sudo: bool) -> list[Finding]:
    off = "or set remote_run.enabled to false"
    try:
        status = command.stat()
    except OSError as failure:
        fix = f"set remote_run.command to the rudder command, {off}"
        return [error("remote_run.command", command, f"not accessible: {failure.strerror}", fix)]
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        fix = f"set remote_run.command to the rudder command, or chmod 0755 {quoted(command)}"
        return [error("remote_run.command", command, "is not executable", fix)]
    access = None if site.access is None else site.access[command]
    if access is not None and not sudo and not access.execute:
        what = f"user {site.account.name} may not run it"
        fix = f"chmod a+rx {quoted(command)}, or set remote_run.use_sudo to true"
        return [error("remote_run.command", command, what, fix)]
    return _judge_owner(site.account, command, status) if sudo else []


def _judge_owner(account: Account, command: Path, status: os.stat_result) -> list[Finding]:
    """Check that only root can change a command that sudo runs as root."""
    if status.st_mode & 0o022 == 0 and (status.st_uid == 0 or account.uid == 0):
        return []
    what = "sudo runs it as root, but users other than root can change it"
    fix = f"chown root:root {quoted(command)} && chmod 0755 {quoted(command)}"
    return [error("remote_run.writable", command, what, fix)]


async def _check_sudo(account: Account, command: Path) -> list[Finding]:
    """Ask sudo whether it lets the service user run the command; nothing is run."""
    off = "or set remote_run.use_sudo to false"
    sudo = shutil.which("sudo", path=SEARCH_PATH)
    if sudo is None:
        what = "sudo is not installed, and remote_run.use_sudo is true"
        return [error("remote_run.sudo", "sudo", what, f"install sudo, {off}")]
    if not account.can_become:
        what = f"only root or {account.name} can ask sudo what it lets {account.name} run"
        return [skipped("remote_run.sudo", "sudo", what, "run this check as root")]
    command_line = [sudo, "-n", "-l", "--", str(command), "remote", "run", "--", "localhost"]
    done = await run(command_line, account=account)
    if done.returncode == 0:
        return []
    what = f"sudo does not let user {account.name} run {command} remote run without a password"
    rule = f"{account.name} ALL=(root) NOPASSWD: {command} remote run *"
    return [error("remote_run.sudo", "sudo", what, f"add to /etc/sudoers.d/rudder-relayd: {rule}")]
