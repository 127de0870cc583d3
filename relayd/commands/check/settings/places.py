"""Directories that must not lie in one another, and files that only root may change."""

import os
import stat
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from relayd.commands.check.model import Finding, Level, Site, error
from relayd.commands.check.service_user.foreign import elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import quoted
from relayd.spool.layout import Spool


def judge_places(site: Site) -> list[Finding]:
    """Report directories that are used for two things."""
    spools = site.spools
    found = [finding for spool in spools for finding in _judge_spool(spool)]
    for one, other in combinations(spools, 2):
        found += _judge_spools(one, other)
    return found + list(_judge_shared(site))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _within(path: Path, directory: Path) -> bool:
    """Return whether a path is a directory or below it, whatever links lead there."""
    return _real(path).is_relative_to(_real(directory))


def _judge_spool(spool: Spool) -> Iterator[Finding]:
    for one, other in combinations(spool.in_use, 2):
        if _real(one) == _real(other):
            what = f"is the same directory as {other}"
            yield error("spool.overlap", one, what, "make each a directory of its own")


def _judge_spools(one: Spool, other: Spool) -> list[Finding]:
    """Report spools with a directory in common, or one inside a directory of the other."""
    if not any(
        _within(inner, outer) or _within(outer, inner)
        for inner in one.in_use
        for outer in other.in_use
    ):
        return []
    what = "run logs and inventories arrive in the same directory, and are taken for each other"
    fix = "set processing.reporting.directory and processing.inventory.directory to different ones"
    return [error("spool.overlap", one.directory, what, fix)]


def _judge_shared(site: Site) -> Iterator[Finding]:
    """Report what nodes could read or replace because it lies below a shared directory."""
    folder, files = site.settings.shared_folder.path, site.settings.shared_files.path
    private = {site.directory: "the directory of main.conf"}
    private |= {path: "a directory of the spool" for spool in site.spools for path in spool.in_use}
    readable = [*private.items(), (files, "shared_files.path")]
    if folder.is_dir() and is_foreign(folder):
        what, readable = "every node may read what is in it, and it belongs to the system", []
        yield error("files.exposed", folder, what, elsewhere(site, folder))
    for path, use in readable:
        if _within(path, folder):
            what = f"every node may read {path}, which lies in it"
            if _real(path) == _real(folder):
                what = f"every node may read what is in it, and it is also {use}"
            fix = "set shared_folder.path to a directory that holds nothing else"
            yield error("files.exposed", folder, what, fix)
    for path, use in private.items():
        if _within(path, files) or _within(files, path):
            relation = f"{path} lies in it" if _within(path, files) else f"it lies in {path}"
            if _real(path) == _real(files):
                relation = f"it is also {use}"
            what = f"relayd removes expired files from it, and {relation}"
            fix = "set shared_files.path to a directory that holds nothing else"
            yield error("files.exposed", files, what, fix)


def open_to_all(path: Path) -> Path | None:
    """Return the file or the directory on the way to it that every user of the machine may change.

    In a directory with the sticky bit users may only replace files of their own; what is written
    to a device changes no file.
    """
    for place in dict.fromkeys((path, *path.parents, _real(path), *_real(path).parents)):
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        protected = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and not protected and not stat.S_ISCHR(mode):
            return place
    return None


def judge_openness(
    site: Site, code: str, path: Path, why: str, level: Level = Level.ERROR, choose: str = ""
) -> list[Finding]:
    """Report a file that every user may change or replace.

    Args:
        site: the installation.
        code: code of the finding.
        path: the file.
        why: what a user could do, as the end of a sentence.
        level: of the finding.
        choose: how to choose another path, "" to name the key.
    """
    place = open_to_all(path)
    if place is None:
        return []
    subject = "it" if place == path else place
    what = f"every user of this machine may change {subject}, and with it {why}"
    return [Finding(level, code, str(path), what, close_fix(site, path, place, choose))]


def close_fix(site: Site, path: Path, place: Path, choose: str = "") -> str:
    """Return how to close what every user may change, a path or a directory on the way to it."""
    if is_foreign(place):
        return elsewhere(site, path, place, choose)
    return f"chmod o-w {quoted(place)}"
