"""The state directory: pauses, and the records of the nodes.

relayd works without it, so nothing here is an error.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from relayd.commands.check.checks.spool import device_of, judge_space, space_of
from relayd.commands.check.model import Finding, Level, Site, as_warnings, warning
from relayd.commands.check.service_user.foreign import choose_another, elsewhere, is_foreign
from relayd.commands.check.service_user.mounts import existing, mount_of
from relayd.commands.check.service_user.permissions import check_directory, check_file, quoted
from relayd.commands.check.settings.places import judge_openness
from relayd.commands.check.surroundings.units import makes_directory
from relayd.pipelines.pausing import FILE, PauseError, PauseFile
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.nodes.saved import NAME, read_saved

#: File systems that are empty after each boot.
_VOLATILE: Final = frozenset({"ramfs", "tmpfs"})
_SPACE: Final = {"spool.space": "state.space", "spool.inodes": "state.inodes"}


async def check(site: Site) -> list[Finding]:
    """Check that relayd can write to the directory, and that it understands what is there."""
    return await in_thread(_check, site, abandon_on_cancel=True)


def _check(site: Site) -> list[Finding]:
    path = site.settings.general.state_directory
    try:
        path.stat()
    except FileNotFoundError:
        if not path.is_symlink():
            return [] if makes_directory(path) else [_missing(site, path)]
    except OSError:  # this user may not look there; for the service user, see below
        pass
    found = as_warnings(check_directory(site, path, "state.permissions", write=True))
    found += judge_openness(site, "state.open", path, "what is paused", Level.WARNING)
    found += _judge_disk(site, path)
    for name, judge in ((FILE, _judge_pauses), (NAME, _judge_records)):
        unreadable = as_warnings(check_file(site, path / name, "state.permissions"))
        found += unreadable or judge(site, path)
    return found


def _missing(site: Site, path: Path) -> Finding:
    what = "does not exist, so nothing can be paused, and the records of nodes end with relayd"
    fix = f"install -d -o {site.account.name} -g {site.account.group} -m 0750 {quoted(path)}"
    if is_foreign(path) or path.parent == Path("/"):
        fix = elsewhere(site, path)
    return warning("state.missing", path, what, fix)


def _judge_disk(site: Site, path: Path) -> Iterator[Finding]:
    """Yield findings about the file system, if it is not the one of a spool."""
    place = existing(path)
    spools = [existing(other) for spool in site.spools for other in spool.in_use]
    device, mount = device_of(place), mount_of(place)
    if device is None or mount is None or device in map(device_of, spools):
        return
    for one in judge_space(space_of(place), path, mount.point):
        yield msgspec.structs.replace(one, level=Level.WARNING, code=_SPACE[one.code])
    if mount.kind in _VOLATILE:
        what = f"is on {mount.kind}, so pauses and records of nodes end when this machine restarts"
        yield warning("state.volatile", path, what, f"{choose_another(site, path)}, on a disk")


def _judge_pauses(site: Site, path: Path) -> list[Finding]:
    file = PauseFile(path)
    try:
        if file.is_newer():
            what = "was written by a newer version of relayd, and may say more than this one knows"
            fix = f"install that version again, or write it again: {site.command('resume')}"
            return [warning("state.newer", path / FILE, what, fix)]
        file.read(0.0)
    except PauseError as error:
        kind = "cannot be read" if isinstance(error.__cause__, OSError) else "is no file of pauses"
        what = f"{kind} ({error.reason}), so nothing is paused, and nothing can be"
        return [warning("state.broken", path / FILE, what, _remove(site, path / FILE))]
    return []


def _judge_records(site: Site, path: Path) -> list[Finding]:
    try:
        read_saved(path)
    except (OSError, ValueError) as error:
        detail = words_of(error) if isinstance(error, OSError) else str(error)
        what = f"cannot be used ({detail}), so the history of the nodes begins again"
        fix = f"install the version of relayd that has written it, or {_remove(site, path / NAME)}"
        return [warning("state.records", path / NAME, what, fix)]
    return []


def _remove(site: Site, file: Path) -> str:
    return elsewhere(site, file.parent) if is_foreign(file) else f"remove it: rm {quoted(file)}"
