"""The control socket, at which commands ask the running daemon.

relayd works without it; commands then do not reach it, or reach somebody else.
"""

import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Level, Site, as_warnings, error, warning
from relayd.commands.check.service_user.foreign import choose_another, elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import check_directory, quoted
from relayd.commands.check.settings.places import judge_openness
from relayd.commands.check.surroundings.units import (
    Service,
    find_service,
    makes_directory,
    service_group,
)
from relayd.control.callers import Caller, caller_of
from relayd.system.threads import in_thread

_RUN: Final = Path("/run")


async def check(site: Site) -> list[Finding]:
    """Check that relayd can make the socket, and that it is relayd that listens on it."""
    path = site.settings.general.control_socket
    if path is None:
        return []
    return await in_thread(_check, site, path, abandon_on_cancel=True)


def _check(site: Site, path: Path) -> list[Finding]:
    service = find_service(site.spools)
    directory = path.parent
    found = list(_judge_group())
    try:
        owner = directory.stat().st_uid
    except FileNotFoundError:
        if service.pid is None and makes_directory(directory):
            return found
        return [*found, _missing(site, directory, service)]
    except OSError:  # this user may not look there; for the service user, see below
        owner = site.account.uid
    found += as_warnings(check_directory(site, directory, "control.permissions", write=True))
    if owner not in {0, site.account.uid}:
        what = f"belongs to user {_name(owner)}, who may replace the control socket"
        found.append(warning("control.owner", directory, what, elsewhere(site, directory)))
    found += judge_openness(site, "control.open", directory, "the control socket", Level.WARNING)
    return [*found, *_judge_socket(site, path, service)]


def _name(uid: int) -> str:
    return Caller(0, uid, frozenset()).name()


def _judge_group() -> Iterator[Finding]:
    """Yield a finding if the group that the unit gives to the socket does not exist."""
    named = service_group()
    if named is None or named[1].isdigit():
        return
    unit, group = named
    try:
        grp.getgrnam(group)
    except KeyError:
        what = f"names group {group}, which does not exist, so systemd does not start it"
        yield error("control.group", unit, what, f"groupadd --system {quoted(group)}")


def _missing(site: Site, directory: Path, service: Service) -> Finding:
    what = "does not exist, so commands cannot ask the running relayd"
    name, group = site.account.name, site.account.group
    fix = f"install -d -o {name} -g {group} -m 0750 {quoted(directory)}"
    if directory.parent == _RUN:  # which is empty after each boot
        fix = f"add RuntimeDirectory={directory.name} to the unit of relayd"
    if is_foreign(directory) or directory.parent == Path("/"):
        fix = elsewhere(site, directory)
    if service.pid is not None:
        fix = f"{fix}, then {service.act('restart')}"
    return warning("control.missing", directory, what, fix)


def _judge_socket(site: Site, path: Path, service: Service) -> Iterator[Finding]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        if service.pid is not None:
            what = f"process {service.pid} runs, but has not made it"
            fix = f"{service.act('restart')}; if that does not make it, {service.log}"
            yield warning("control.absent", path, what, fix)
        return
    except OSError:  # this user may not look there
        return
    if not stat.S_ISSOCK(status.st_mode):
        what = "is not a socket, so relayd makes none"
        fix = f"{choose_another(site, path)}, or move it away if nothing else needs it"
        yield warning("control.taken", path, what, fix)
        return
    yield from _judge_access(site, path, status)
    yield from _judge_listener(site, path, service)


def _judge_access(site: Site, path: Path, status: os.stat_result) -> Iterator[Finding]:
    """Yield a finding if the group of the socket does not exist."""
    try:
        grp.getgrgid(status.st_gid)
    except KeyError:
        what = (
            f"its group {status.st_gid} does not exist, so only root and user {site.account.name}"
            " may use it"
        )
        fix = f"chgrp {site.account.group} {quoted(path)}"
        yield warning("control.group", path, what, fix)


def _judge_listener(site: Site, path: Path, service: Service) -> Iterator[Finding]:
    """Yield a finding if nobody listens, or another user's program."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.setblocking(False)
        try:
            trial.connect(str(path))
            listener = caller_of(trial)
        except ConnectionRefusedError:
            yield _dead(site, path, service)
            return
        except OSError:  # it is busy, or this user may not use it
            return
    if listener.uid not in {0, site.account.uid}:
        what = f"process {listener.pid} of user {listener.name()} listens on it, not relayd"
        fix = f"find out whose it is, and {choose_another(site, path)}"
        yield error("control.taken", path, what, fix)


def _dead(site: Site, path: Path, service: Service) -> Finding:
    if service.pid is not None:
        what = f"process {service.pid} runs, but does not listen on it"
        return warning("control.dead", path, what, service.act("restart"))
    what = "nobody listens on it: a relayd that was killed has left it"
    fix = f"{service.start(site.directory)}; it replaces the socket"
    return warning("control.dead", path, what, fix)
