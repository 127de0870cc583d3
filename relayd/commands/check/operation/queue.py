"""What operators have asked for and may have forgotten: pauses, nodes on hold, files set aside."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, note, warning
from relayd.commands.check.service_user.foreign import elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import quoted
from relayd.errors import StartError
from relayd.overview.held import count_held
from relayd.overview.model import KIND_NAMES
from relayd.overview.sentence import moment
from relayd.pipelines.pausing import FILE, PauseError, PauseFile
from relayd.spool.layout import spools_of
from relayd.spool.operations.rules import Rule, read_rules, rules_path
from relayd.system.amounts import counted
from relayd.system.threads import in_thread

#: Nodes on hold that have a finding of their own.
MOST: Final = 20


async def check(site: Site) -> list[Finding]:
    """Name what is paused or set aside, by whom, and how that ends."""
    return await in_thread(_check, site, abandon_on_cancel=True)


def _check(site: Site) -> list[Finding]:
    now = time.time()
    return [*_pauses(site, now), *_nodes(site, now), *_files(site)]


def _pauses(site: Site, now: float) -> Iterator[Finding]:
    directory = site.settings.general.state_directory
    try:
        paused = PauseFile(directory).read(now)
    except PauseError:  # see the check of the state directory
        return
    for kind, one in paused.items():
        until = f" until {moment(one.until, now)}" if one.until is not None else ""
        since = moment(one.since, now)
        what = f"{KIND_NAMES[kind]} are paused by {one.by} since {since}{until}"
        yield warning("queue.paused", directory / FILE, what, site.command(f"resume {kind}"))


def _nodes(site: Site, now: float) -> Iterator[Finding]:
    rules: dict[str, Rule] = {}
    for spool in spools_of(site.settings):
        try:
            rules |= read_rules(spool)
        except StartError as error:
            yield _unknown(site, rules_path(spool), error)
    for number, (node, rule) in enumerate(sorted(rules.items())):
        if number == MOST:
            what = f"{counted(len(rules) - MOST, 'further node')} on hold"
            yield note("queue.on_hold", "nodes", what, site.command("queue list"))
            return
        what = f"its files are on hold, by {rule.by} since {moment(rule.since, now)}"
        fix = site.command(f"queue release --node {quoted(node)}")
        yield note("queue.on_hold", f"node {node}", what, fix)


def _unknown(site: Site, path: Path, error: StartError) -> Finding:
    """Return the finding about a file that says which nodes are on hold."""
    what = f"which nodes are on hold is not known: {error}"
    fix = f"mv {quoted(path)} {quoted(f'{path}.broken')}, and hold nodes again: relayd queue hold"
    return warning("queue.rules", path, what, elsewhere(site, path) if is_foreign(path) else fix)


def _files(site: Site) -> Iterator[Finding]:
    for spool in spools_of(site.settings):
        number = count_held([spool])
        if number:
            listed = site.command("queue list --state held")
            fix = f"{site.command('queue release --all')} brings them back; {listed} shows them"
            yield note("queue.held", spool.on_hold, f"{counted(number, 'file')} on hold", fix)
