"""Run all checks concurrently, each with a deadline; the clock last, as it needs their results."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from relayd.commands.check.account import Account
from relayd.commands.check.checks import (
    certificates,
    clock,
    configuration,
    database,
    files,
    listen,
    nodes,
    openssl,
    remote_run,
    selinux,
    server,
    spool,
    upstream,
)
from relayd.commands.check.model import Check, CheckReport, Finding, Site, error, skipped
from relayd.commands.check.operation import control, queue, state
from relayd.commands.check.service_user.access import ask, questions
from relayd.commands.check.settings.anchored import anchored
from relayd.commands.check.surroundings import daemon, webserver
from relayd.system.threads import in_thread

#: Deadlines in seconds of checks that connect to other machines, and of those that read files.
NETWORK_S: Final = 5.0
FILES_S: Final = 30.0

CHECKS: Final = (
    Check("configuration", configuration.check, FILES_S),
    Check("files", files.check, FILES_S),
    Check("listen", listen.check, NETWORK_S),
    Check(daemon.NAME, daemon.check, NETWORK_S + 2.0),
    Check("control", control.check, FILES_S),
    Check("state", state.check, FILES_S),
    Check("spool", spool.check, FILES_S),
    Check("queue", queue.check, FILES_S),
    Check("webserver", webserver.check, FILES_S),
    Check("server", server.check, FILES_S),
    Check("nodes", nodes.check, FILES_S),
    Check("certificates", certificates.check, FILES_S),
    Check("database", database.check, NETWORK_S),
    Check("upstream", upstream.check, NETWORK_S),
    Check("remote_run", remote_run.check, NETWORK_S),
    Check("selinux", selinux.check, FILES_S),
    Check("openssl", openssl.check, FILES_S),
)
CLOCK: Final = Check("clock", clock.check, NETWORK_S)

#: Called with the names of the running checks.
Progress = Callable[[list[str]], None]


async def examine(
    directory: Path, account: Account, progress: Progress, web: Account | None = None
) -> CheckReport:
    """Run all checks.

    Args:
        directory: the configuration directory.
        account: the user that the daemon runs as.
        progress: called at the start and after each check.
        web: the user of the web server, None to find it by its processes.
    """
    report = CheckReport(directory, account, dict.fromkeys(c.name for c in (*CHECKS, CLOCK)))
    loaded, first = configuration.load(directory)
    if loaded is None:
        what = "nothing else can be checked until relayd can start"
        rest = skipped("configuration.rest", directory, what, "fix the errors, then check again")
        report.results["configuration"] = [*first, rest]
        return report
    paths = anchored(directory, loaded[0])
    progress(["files"])
    access, unknown = await ask(account, questions(directory, paths.settings))
    site = Site(directory, paths.settings, loaded[1], account, access, web)
    before = {"configuration": first + paths.findings, "files": unknown}
    pending = [check.name for check in CHECKS]
    progress(pending)

    async def run(check: Check) -> None:
        found = await _run(check, site)
        found = found and paths.corrected(found)
        report.results[check.name] = _joined(before.get(check.name), found)
        pending.remove(check.name)
        progress(pending)

    async with trio.open_nursery() as nursery:
        for check in CHECKS:
            nursery.start_soon(run, check, name=check.name)
    report.results[CLOCK.name] = await _run(CLOCK, site)
    report.results[daemon.NAME] = _joined(
        report.results[daemon.NAME], await in_thread(daemon.judge_status, site, report.results)
    )
    return report


def _joined(before: list[Finding] | None, found: list[Finding] | None) -> list[Finding] | None:
    return found if before is None else [*before, *(found or ())]


async def _run(check: Check, site: Site) -> list[Finding] | None:
    with trio.move_on_after(check.deadline):
        return await check.run(site)
    what = f"this check did not finish within {check.deadline:.0f} s"
    fix = "find what hangs: a network file system, a name server or a firewall"
    return [error(f"{check.name}.deadline", check.name, what, fix)]
