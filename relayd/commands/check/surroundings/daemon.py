"""The daemon: does it run, in the installed version and with the files as they are now?"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from relayd import __version__
from relayd.commands.check.model import Finding, Level, Site, error, warning
from relayd.commands.check.surroundings.api import NoAnswer, body_of, document, get
from relayd.commands.check.surroundings.units import find_service
from relayd.config.in_force import MODIFIED, RESTART_KEYS, files_of, modified
from relayd.fleet.peers.urls import API
from relayd.system.amounts import span
from relayd.system.threads import in_thread

#: Name of this check.
NAME: Final = "daemon"

#: Seconds that a file may wait although the daemon does not run: it may just be restarting.
PATIENCE_S: Final = 60.0
#: Seconds after which a changed file should have been read: who changes it also reloads.
SETTLED_S: Final = 60.0

#: A metric that Rudder's own daemon does not have.
_OURS: Final = b"rudder_relayd_event_loop_lag_seconds"
_SAMPLE: Final = re.compile(
    rf'^rudder_relayd_({MODIFIED}|{RESTART_KEYS})(?:{{file="(\w+)"}})? (\S+)$', re.MULTILINE
)
#: The checks that report what the daemon complains about, by the name in its status.
_SAME: Final = {
    "configuration": ("configuration", "nodes", "certificates", "upstream"),
    "database": ("database",),
}
_CHUNK: Final = re.compile(rb"\r\n[0-9a-f]+\r\n")


async def check(site: Site) -> list[Finding]:
    """Ask the daemon through its API; what else listens there is reported by another check."""
    listen = site.settings.general.listen
    answer = await get(listen, f"{API}/system/info")
    if answer is NoAnswer.CLOSED:
        return [await in_thread(_judge_stopped, site, abandon_on_cancel=True)]
    if answer is NoAnswer.SILENT:
        return await in_thread(_judge_silent, site, abandon_on_cancel=True)
    info = None if isinstance(answer, NoAnswer) else document(answer, "getSystemInfo")
    if info is None:
        return []
    version = _version(info)
    numbers = await get(listen, "/metrics")
    if isinstance(numbers, NoAnswer) or _OURS not in numbers:
        return [_judge_original(site, version)]
    status = await get(listen, f"{API}/system/status")
    if not isinstance(status, NoAnswer):
        site.complaints.update(_complaints(document(status, "getStatus")))
    return await in_thread(
        _judge_running, site, version, read_metrics(numbers), abandon_on_cancel=True
    )


def _version(info: dict[str, Any]) -> str:
    data = info.get("data")
    return str(data.get("full-version", "")) if isinstance(data, dict) else ""


def read_metrics(answer: bytes) -> dict[tuple[str, str], float]:
    """Return the metrics that the check needs, by name and by the label `file`."""
    text = _CHUNK.sub(b"", body_of(answer)).decode(errors="replace")
    return {(name, file): float(value) for name, file, value in _SAMPLE.findall(text)}


def _where(site: Site) -> str:
    return f"general.listen {site.settings.general.listen}"


def _judge_stopped(site: Site) -> Finding:
    """Return an error if files wait for the daemon or it runs with another address."""
    service = find_service(site.spools)
    if service.pid is not None:
        what = (
            f"nothing listens there, but process {service.pid} has locked the spool:"
            " general.listen was changed"
        )
        return error("daemon.elsewhere", _where(site), what, service.act("restart"))
    count, age = _waiting(site)
    start = service.start(site.directory)
    if age > PATIENCE_S:
        files = "1 file waits" if count == 1 else f"{count} files wait"
        what = f"relayd is not running, and {files}, the oldest for {span(age)}"
        return error("daemon.stopped", _where(site), what, start)
    return warning("daemon.stopped", _where(site), "relayd is not running", start)


def _judge_silent(site: Site) -> list[Finding]:
    """Return an error if the program that does not answer is most likely the daemon."""
    service = find_service(site.spools)
    if service.pid is None:
        return []
    what = f"process {service.pid}, which has locked the spool, does not answer"
    return [error("daemon.hangs", _where(site), what, service.act("restart"))]


def _waiting(site: Site) -> tuple[int, float]:
    """Return the number of waiting files and the age of the oldest."""
    count, oldest = 0, time.time()
    for path in (path for spool in site.spools for path in spool.watched):
        access = None if site.access is None else site.access.get(path)
        if access is not None and access.oldest is not None:
            count += access.waiting
            oldest = min(oldest, access.oldest)
    return count, time.time() - oldest


def _judge_original(site: Site, version: str) -> Finding:
    what = f"Rudder's own rudder-relayd {version} runs, not relayd"
    fix = "switch as the administrator's guide says; until then relayd must not be started"
    return warning("daemon.original", _where(site), what, fix)


def _judge_running(
    site: Site, version: str, numbers: dict[tuple[str, str], float]
) -> list[Finding]:
    """Report another version, and files that were changed since the daemon read them."""
    found: list[Finding] = []
    service = find_service(site.spools)
    if version != __version__:
        what = f"relayd {version} runs, but {__version__} is installed"
        found.append(warning("daemon.version", _where(site), what, service.act("restart")))
    now = time.time()
    for name, path in files_of(site.directory, site.settings).items():
        present, read = modified(path), numbers.get((MODIFIED, name))
        if read is None or present == read or not present or abs(now - present) < SETTLED_S:
            continue
        what = "was changed after relayd had read it"
        found.append(warning("daemon.outdated", path, what, service.act("reload")))
    keys = round(numbers.get((RESTART_KEYS, ""), 0.0))
    if keys:
        many = "1 changed key; its log names it"
        if keys > 1:
            many = f"{keys} changed keys; its log names them"
        what = f"relayd runs without {many}"
        found.append(warning("daemon.restart", site.main, what, service.act("restart")))
    return found


def _complaints(status: dict[str, Any] | None) -> dict[str, str]:
    """Return what the daemon itself finds wrong, by the names in its status."""
    data = (status or {}).get("data")
    return {
        name: str(outcome.get("details", ""))
        for name, outcome in (data if isinstance(data, dict) else {}).items()
        if isinstance(outcome, dict) and outcome.get("status") == "error"
    }


def judge_status(site: Site, results: Mapping[str, Sequence[Finding] | None]) -> list[Finding]:
    """Report what the daemon finds wrong and no check does, for example with what it read before.

    Args:
        site: the installation, with the complaints of the daemon.
        results: the findings of all checks.
    """
    if not site.complaints:
        return []
    service = find_service(site.spools)
    found: list[Finding] = []
    # The daemon says so of every server; here the check of the nodes list decides how bad it is.
    no_list = not site.examines and not site.settings.general.nodes_list_file.exists()
    for name, details in site.complaints.items():
        others = (finding for check in _SAME.get(name, ()) for finding in results[check] or ())
        if any(finding.level is Level.ERROR for finding in others):
            continue
        what = f"the running relayd reports about its {name}: {details}"
        fix = f"{service.act('reload')}; if it still reports that, {service.log}"
        make = warning if name == "configuration" and no_list else error
        found.append(make("daemon.status", _where(site), what, fix))
    return found
