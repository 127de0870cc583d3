"""The daemon: does it run, in the installed version and with the files as they are now?"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from relayd import __version__
from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.surroundings.api import NoAnswer, body_of, document, get
from relayd.commands.check.surroundings.processes import holder_of
from relayd.commands.check.surroundings.units import unit_name
from relayd.config.in_force import MODIFIED, RESTART_KEYS, files_of, modified
from relayd.fleet.peers.urls import API
from relayd.spool.layout import Spool
from relayd.system.threads import in_thread

#: Seconds that a file may wait although the daemon does not run: it may just be restarting.
PATIENCE_S: Final = 60.0
#: Seconds after which a changed file should have been read: who changes it also reloads.
SETTLED_S: Final = 60.0

#: A metric that Rudder's own daemon does not have.
_OURS: Final = b"rudder_relayd_event_loop_lag_seconds"
_SAMPLE: Final = re.compile(
    rf'^rudder_relayd_({MODIFIED}|{RESTART_KEYS})(?:{{file="(\w+)"}})? (\S+)$', re.MULTILINE
)
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
    found = _judge_version(site, version)
    found += await in_thread(_judge_files, site, read_metrics(numbers), abandon_on_cancel=True)
    if not isinstance(status, NoAnswer):
        said = document(status, "getStatus")
        found += await in_thread(_judge_status, site, said, abandon_on_cancel=True)
    return found


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
    pid = holder_of(_locked(site.spools))
    if pid is not None:
        what = f"nothing listens there, but process {pid} has locked the spool"
        fix = f"restart relayd (systemctl restart {unit_name()}): general.listen was changed"
        return error("daemon.elsewhere", _where(site), what, fix)
    count, age = _waiting(site)
    start = f"systemctl start {unit_name()}; if it does not run, journalctl -u {unit_name()}"
    if age > PATIENCE_S:
        files = "1 file waits" if count == 1 else f"{count} files wait"
        what = f"relayd is not running, and {files}, the oldest for {span(age)}"
        return error("daemon.stopped", _where(site), what, start)
    return warning("daemon.stopped", _where(site), "relayd is not running", start)


def _judge_silent(site: Site) -> list[Finding]:
    """Return an error if the program that does not answer is most likely the daemon."""
    pid = holder_of(_locked(site.spools))
    if pid is None:
        return []
    what = f"process {pid}, which has locked the spool, does not answer"
    return [error("daemon.hangs", _where(site), what, f"systemctl restart {unit_name()}")]


def _locked(spools: list[Spool]) -> Iterator[Path]:
    for spool in spools:
        yield from (spool.directory, *spool.watched)


def _waiting(site: Site) -> tuple[int, float]:
    """Return the number of waiting files and the age of the oldest."""
    count, oldest = 0, time.time()
    for path in (path for spool in site.spools for path in spool.watched):
        access = None if site.access is None else site.access.get(path)
        if access is not None and access.oldest is not None:
            count += access.waiting
            oldest = min(oldest, access.oldest)
    return count, time.time() - oldest


def span(seconds: float) -> str:
    """Return a time span as people say it: `40 s`, `25 min`, `3 h` or `2 days`."""
    for unit, size in (("days", 172_800.0), ("h", 7_200.0), ("min", 120.0)):
        if seconds >= size:
            return f"{seconds / (size / 2):.0f} {unit}"
    return f"{seconds:.0f} s"


def _judge_original(site: Site, version: str) -> Finding:
    what = f"Rudder's own rudder-relayd {version} runs, not relayd"
    fix = "switch as the administrator's guide says; until then relayd must not be started"
    return warning("daemon.original", _where(site), what, fix)


def _judge_version(site: Site, version: str) -> list[Finding]:
    if version == __version__:
        return []
    what = f"relayd {version} runs, but {__version__} is installed"
    fix = f"systemctl restart {unit_name()}"
    return [warning("daemon.version", _where(site), what, fix)]


def _judge_files(site: Site, numbers: dict[tuple[str, str], float]) -> list[Finding]:
    """Report files that were changed since the daemon read them."""
    found: list[Finding] = []
    now = time.time()
    for name, path in files_of(site.directory, site.settings).items():
        present, read = modified(path), numbers.get((MODIFIED, name))
        if read is None or present == read or not present or abs(now - present) < SETTLED_S:
            continue
        what = "was changed after relayd had read it"
        fix = f"systemctl reload {unit_name()}"
        found.append(warning("daemon.outdated", path, what, fix))
    keys = round(numbers.get((RESTART_KEYS, ""), 0.0))
    if keys:
        many = "1 changed key; its log names it"
        if keys > 1:
            many = f"{keys} changed keys; its log names them"
        what = f"relayd runs without {many}"
        fix = f"systemctl restart {unit_name()}"
        found.append(warning("daemon.restart", site.main, what, fix))
    return found


def _judge_status(site: Site, status: dict[str, Any] | None) -> list[Finding]:
    """Report what the daemon itself finds wrong."""
    data = (status or {}).get("data")
    found: list[Finding] = []
    # The daemon says so of every server; here the check of the nodes list decides how bad it is.
    no_list = not site.examines and not site.settings.general.nodes_list_file.exists()
    for name, outcome in (data if isinstance(data, dict) else {}).items():
        if isinstance(outcome, dict) and outcome.get("status") == "error":
            what = f"the running relayd reports about its {name}: {outcome.get('details', '')}"
            fix = f"fix it; if it is fixed already, systemctl reload {unit_name()}"
            make = warning if name == "configuration" and no_list else error
            found.append(make("daemon.status", _where(site), what, fix))
    return found
