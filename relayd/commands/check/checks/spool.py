"""The spool: permissions, mounts, free space and waiting files."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from relayd.commands.check.model import Finding, Level, Site, error, warning
from relayd.commands.check.service_user.mounts import REMOTE, existing, mount_of
from relayd.commands.check.service_user.permissions import check_directory
from relayd.commands.check.service_user.probe import MOST
from relayd.commands.check.settings.places import close_fix, judge_places, open_to_all
from relayd.commands.check.surroundings.units import find_service
from relayd.spool.layout import Spool
from relayd.system.amounts import span
from relayd.system.threads import in_thread

#: Free bytes: below the first, relayd is about to fail; below the second and below the share of
#: the file system, an operator should act.
LEAST_BYTES: Final = 64 * 2**20
FEW_BYTES: Final = 5 * 2**30
#: The same for inodes.
LEAST_INODES: Final = 1_000
FEW_INODES: Final = 100_000
FEW_SHARE: Final = 0.05

#: Seconds after which a waiting file shows that relayd does not process it.
OVERDUE_S: Final = 600.0


class Space(NamedTuple):
    """Space of a file system, free for the service user and total; 0 inodes: not counted."""

    free: int
    total: int
    free_inodes: int
    inodes: int


async def check(site: Site) -> list[Finding]:
    """Check each spool whose output is enabled."""
    return await in_thread(_check, site, abandon_on_cancel=True)


def _check(site: Site) -> list[Finding]:
    found = judge_places(site)
    spools = site.spools
    for spool in spools:
        for path in spool.in_use:
            found += check_directory(site, path, "spool.permissions", write=True)
            found += _mode(site, path)
        for path in spool.watched:
            found += _move(path, spool.failed, _REFUSING, Level.WARNING) + _waiting(site, path)
            if spool.keeps:
                found += _move(path, spool.held, _KEEPING, Level.ERROR)
    return found + _disks(spools)


#: What another mount means for refused files, and for committed ones.
_REFUSING: Final = "refused files are copied instead of renamed"
_KEEPING: Final = "committed files cannot be moved there, and stay"


def _move(watched: Path, other: Path, effect: str, level: Level) -> list[Finding]:
    source, target = mount_of(existing(watched)), mount_of(existing(other))
    if source is None or target is None or source.number == target.number:
        return []
    what = f"{other} is on another mount, so {effect}"
    fix = f"put both on one mount; they are on {source.point} and {target.point}"
    return [Finding(level, "spool.other_mount", str(watched), what, fix)]


def _mode(site: Site, path: Path) -> list[Finding]:
    place = open_to_all(path)
    if place is None:
        return []
    subject = "it" if place == path else place
    fix = f"{close_fix(site, path, place)}; the web server has access through its group"
    return [warning("spool.open", path, f"every user of this machine may write to {subject}", fix)]


def _waiting(site: Site, path: Path) -> list[Finding]:
    access = None if site.access is None else site.access[path]
    if access is None:
        return []
    found: list[Finding] = []
    if access.unreadable:
        count, name = access.unreadable, path / access.unreadable_name
        what = f"user {site.account.name} may not read {count} of its files, such as {name.name}"
        fix = f"chgrp {site.account.group} and chmod g+r them; set the web server's umask to 0027"
        found.append(error("spool.unreadable_files", path, what, fix))
    age = 0.0 if access.oldest is None else time.time() - access.oldest
    if age > OVERDUE_S:
        number = f"{MOST} or more" if access.waiting >= MOST else access.waiting
        what = f"waiting files: {number}, the oldest for {span(age)}"
        log = find_service(site.spools).log
        fix = f"{log} for the reason: output unavailable, or file stays"
        found.append(warning("spool.overdue", path, what, fix))
    return found


def _disks(spools: list[Spool]) -> list[Finding]:
    """Check each file system once, for space and for inotify."""
    found: list[Finding] = []
    seen: set[int] = set()
    for path in (path for spool in spools for path in spool.in_use):
        place = existing(path)
        device = device_of(place)
        if device is None or device in seen:
            continue
        seen.add(device)
        mount = mount_of(place)
        found += judge_space(space_of(place), path, mount.point if mount else str(place))
        found += judge_kind(mount.kind if mount else "", path)
    return found


def device_of(place: Path) -> int | None:
    """Return the device of a path; None if it is not known."""
    try:
        return place.stat().st_dev
    except OSError:
        return None


def space_of(place: Path) -> Space:
    """Return the space of the file system of an existing path."""
    status = os.statvfs(place)
    size = status.f_frsize
    return Space(status.f_bavail * size, status.f_blocks * size, status.f_favail, status.f_files)


def judge_space(space: Space, path: Path, point: str) -> Iterator[Finding]:
    """Yield a finding for each resource that is nearly used up.

    Args:
        space: space of the file system.
        path: the directory that needs it.
        point: the mount point of the file system.
    """
    fix = f"free space on {point}, or enlarge it"
    text = f"only {space.free / 2**20:.0f} MiB are free on {point}"
    if space.free < LEAST_BYTES:
        yield error("spool.space", path, text, fix)
    elif space.free < FEW_BYTES and space.free < FEW_SHARE * space.total:
        yield warning("spool.space", path, text, fix)
    text = f"only {space.free_inodes} inodes are free on {point}"
    fix = f"remove files on {point}, or recreate it with more inodes"
    if not space.inodes:
        return
    if space.free_inodes < LEAST_INODES:
        yield error("spool.inodes", path, text, fix)
    elif space.free_inodes < FEW_INODES and space.free_inodes < FEW_SHARE * space.inodes:
        yield warning("spool.inodes", path, text, fix)


def judge_kind(kind: str, path: Path) -> list[Finding]:
    """Report a file system on which inotify does not see the files of other machines."""
    if kind not in REMOTE:
        return []
    what = f"is on {kind}, so files written by other machines are found only by listing"
    fix = "put the spool on a local disk, or keep catchup.frequency short and catchup.limit above 0"
    return [warning("spool.remote", path, what, fix)]
