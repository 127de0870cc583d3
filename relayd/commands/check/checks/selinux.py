"""SELinux labels, where SELinux is enabled: a wrong label denies access that modes allow."""

import re
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, skipped, warning
from relayd.commands.check.service_user.child import run
from relayd.commands.check.service_user.permissions import quoted
from relayd.spool.layout import inventory_spool, run_log_spool

_SYSTEM: Final = Path("/sys/fs/selinux/enforce")
_WRONG: Final = re.compile(r"(/.*) has context (\S+), should be (\S+)")


async def check(site: Site) -> list[Finding]:
    """Compare the labels with those of the loaded policy."""
    if not _SYSTEM.exists():
        return []
    paths = [str(path.absolute()) for path in _paths(site) if path.exists()]
    try:
        done = await run(["matchpathcon", "-V", *paths])
    except FileNotFoundError:
        what = "labels cannot be compared: matchpathcon is not installed"
        return [skipped("selinux.unknown", "SELinux", what, "install libselinux-utils")]
    return judge(done.stdout.decode(errors="replace"))


def judge(output: str) -> list[Finding]:
    """Judge the output of `matchpathcon -V` (matchpathcon(8)) for several paths."""
    found: list[Finding] = []
    for line in output.splitlines():
        wrong = _WRONG.fullmatch(line)
        if wrong is not None:
            what = f"its label is {wrong[2]}, expected {wrong[3]}"
            fix = f"restorecon -Rv {quoted(wrong[1])}"
            found.append(warning("selinux.label", wrong[1], what, fix))
    return found


def _paths(site: Site) -> list[Path]:
    settings = site.settings
    spools = (
        run_log_spool(settings.processing.reporting.directory, keeps=settings.keeps_run_logs),
        inventory_spool(settings.processing.inventory.directory),
    )
    return [
        site.directory,
        settings.general.nodes_list_file,
        settings.general.nodes_certs_file,
        *(path for spool in spools for path in (spool.directory, *spool.in_use)),
        settings.shared_files.path,
        settings.shared_folder.path,
    ]
