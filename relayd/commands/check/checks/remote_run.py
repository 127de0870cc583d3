"""The command that starts agents on demand, and the permission to run it."""

import os
import shutil
import stat
from pathlib import Path

from relayd.commands.check.account import SERVICE_USER, Account
from relayd.commands.check.model import Finding, Site, error, skipped, warning
from relayd.commands.check.service_user.child import run
from relayd.commands.check.service_user.foreign import elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import quoted
from relayd.commands.check.settings.places import judge_openness
from relayd.commands.check.surroundings.units import COMMAND, read_helper_unit
from relayd.remote_run.helper.protocol import SEARCH_PATH
from relayd.system.threads import in_thread


async def check(site: Site) -> list[Finding]:
    """Check the command if remote runs are enabled."""
    remote_run = site.settings.remote_run
    if not remote_run.enabled:
        return []
    if remote_run.helper is not None:
        found = _check_helper(site, remote_run.helper)
        return found + await in_thread(_check_behind_helper, site, abandon_on_cancel=True)
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


def _check_behind_helper(site: Site) -> list[Finding]:
    """Check the command that the helper runs, and that it knows the same nodes."""
    unit = read_helper_unit()
    found = _check_root_command(site, unit.command, unit.found)
    nodes_list = site.settings.general.nodes_list_file
    if unit.found and unit.nodes_list != nodes_list:
        what = f"the helper accepts the hosts of {unit.nodes_list}, not those of {nodes_list}"
        fix = f"set --nodes-list {quoted(nodes_list)} in a drop-in of rudder-relayd-helper@.service"
        found.append(error("remote_run.helper", "rudder-relayd-helper@.service", what, fix))
    return found


def _check_root_command(site: Site, command: Path, sure: bool) -> list[Finding]:
    """Check a command that the helper runs as root.

    Args:
        site: the installation.
        command: the program.
        sure: whether it is known that the helper runs this command.
    """
    choose = "in the helper's unit, set --command"
    try:
        status = command.stat()
    except OSError as failure:
        make = error if sure else warning
        what = f"the helper cannot run it: {failure.strerror}"
        return [make("remote_run.command", command, what, f"{choose} to the rudder command")]
    return _judge_program(command, status, choose) or _judge_owner(
        site, "the helper", command, status, f"{choose} to another path"
    )


def _judge_program(command: Path, status: os.stat_result, choose: str) -> list[Finding]:
    """Report what is no program."""
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
        return []
    fix = f"{choose} to the rudder command"
    if not is_foreign(command):
        fix = f"{fix}, or chmod 0755 {quoted(command)}"
    what = "is not executable" if stat.S_ISREG(status.st_mode) else "is not a program"
    return [error("remote_run.command", command, what, fix)]


def _check_command(site: Site, command: Path, *, sudo: bool) -> list[Finding]:
    off = "or set remote_run.enabled to false"
    try:
        status = command.stat()
    except OSError as failure:
        fix = f"set remote_run.command to the rudder command, {off}"
        return [error("remote_run.command", command, f"not accessible: {failure.strerror}", fix)]
    found = _judge_program(command, status, "set remote_run.command")
    if found:
        return found
    access = None if site.access is None else site.access[command]
    if access is not None and not sudo and not access.execute:
        what = f"user {site.account.name} may not run it"
        fix = "set remote_run.use_sudo to true"
        if not is_foreign(command):
            fix = f"chmod a+rx {quoted(command)}, or {fix}"
        return [error("remote_run.command", command, what, fix)]
    return _judge_owner(site, "sudo", command, status) if sudo and site.account.uid else []


def _judge_owner(
    site: Site, who: str, command: Path, status: os.stat_result, choose: str = ""
) -> list[Finding]:
    """Check that only root can change a command that is run as root, or replace it.

    Args:
        site: the installation.
        who: what runs it.
        command: the program.
        status: its mode and owner.
        choose: how to choose another one, "" to name the key.
    """
    what = f"{who} runs it as root, but users other than root can change it"
    if status.st_mode & 0o022 or status.st_uid:
        fix = f"chown root:root {quoted(command)} && chmod 0755 {quoted(command)}"
        if is_foreign(command):
            fix = elsewhere(site, command, choose=choose)
        return [error("remote_run.writable", command, what, fix)]
    why = f"what {who} runs as root"
    return judge_openness(site, "remote_run.writable", command, why, choose=choose)


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
    refused = []
    for conditions in ([], ["-D", "check"]):
        words = [str(command), "remote", "run", *conditions, "--", "localhost"]
        done = await run([sudo, "-n", "-l", "--", *words], account=account)
        if done.returncode:
            refused.append(" ".join(words))
    if not refused:
        return []
    what = f"sudo does not let user {account.name} run without a password: {refused[0]}"
    fix = "install the sudo rules shipped with relayd as /etc/sudoers.d/rudder-relayd, mode 0440"
    return [error("remote_run.sudo", "sudo", what, fix + _changes(account, command))]


def _changes(account: Account, command: Path) -> str:
    """Return what must be changed in the shipped rules, which name a user and a command."""
    changed = []
    if account.name != SERVICE_USER:
        changed.append(f"user {account.name}")
    if command != COMMAND:
        changed.append(f"command {quoted(command)}")
    return f", with {' and '.join(changed)} in its rules" if changed else ""
