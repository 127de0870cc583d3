"""The parts of the archive; each returns a text, or says why there is none."""

import importlib.metadata
import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from relayd import __version__
from relayd.commands.check.surroundings.api import NoAnswer, body_of, get
from relayd.commands.check.surroundings.units import find_service, unit_text
from relayd.commands.support.configuration import Loaded, configuration_text
from relayd.commands.support.masking import mask_unit
from relayd.config.main_conf import Settings
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import RelaydError
from relayd.overview.server import running_process, spools_in_use
from relayd.system.clock import in_utc
from relayd.system.printable import printable, shown
from relayd.system.shortage import words_of

#: Seconds for one answer of relayd, for a command, and for the checks.
_PATIENCE_S: Final = 5.0
_COMMAND_S: Final = 15.0
_CHECK_S: Final = 60.0
#: Bytes of what a command prints.
_MOST_BYTES: Final = 16 * 2**20
_LOG_LINES: Final = 5_000
#: Entries of one directory that are listed with size and time; of larger ones, the number.
MOST_ENTRIES: Final = 10_000
_MOST_DIRECTORIES: Final = 100
_MOST_COUNTED: Final = 5_000_000
_ABOUT_PROCESS: Final = ("status", "limits", "cgroup", "sched", "mountinfo")
_ABOUT_SYSTEM: Final = ("/etc/os-release", "/proc/loadavg", "/proc/meminfo", "/proc/uptime")

#: Returns a text.
Part = Callable[[], str]


class MissingError(RelaydError):
    """A part cannot be had; the text says why."""


def make_parts(directory: Path, loaded: Loaded) -> dict[str, Part]:
    """Return the parts by the name of their file, the quick ones first."""
    settings = loaded.settings
    control = Control(settings.general.control_socket, patience=_PATIENCE_S)
    return {
        "versions.txt": _versions,
        "configuration.txt": partial(configuration_text, directory, loaded),
        "status.json": partial(_ask, control, "/status"),
        "checks.json": partial(_ask, control, "/checks"),
        "tasks.json": partial(_ask, control, "/tasks"),
        "metrics.txt": partial(_metrics, settings),
        "process.txt": partial(_process, settings),
        "units.txt": partial(_units, settings),
        "log.txt": partial(_log, settings, control),
        "spool.txt": partial(_spool, settings),
        "check.json": partial(_check, directory),
    }


def _versions() -> str:
    lines = [
        f"relayd {__version__}",
        f"Python {sys.version} at {sys.executable}",
        ssl.OPENSSL_VERSION,
        f"{platform.platform()}, {os.cpu_count()} processors",
        f"time {datetime.now(UTC).isoformat(timespec='seconds')}",
        "",
        *sorted(f"{one.name} {one.version}" for one in importlib.metadata.distributions()),
    ]
    for name in _ABOUT_SYSTEM:
        with suppress(OSError):
            lines += ["", f"== {name}", Path(name).read_text(encoding="utf-8", errors="replace")]
    return "\n".join(lines) + "\n"


def _ask(control: Control, target: str) -> str:
    try:
        return msgspec.json.format(msgspec.json.encode(control.get(target))).decode() + "\n"
    except (NotRunningError, NotPermittedError, ControlError) as error:
        raise MissingError(str(error)) from None


def _metrics(settings: Settings) -> str:
    listen = settings.general.listen
    answer = trio.run(get, listen, "/metrics")
    if isinstance(answer, NoAnswer):
        what = "nothing listens on" if answer is NoAnswer.CLOSED else "there is no answer from"
        raise MissingError(f"{what} {listen}")
    return body_of(answer).decode(errors="replace")


def _check(directory: Path) -> str:
    # -P: nothing is imported from the current directory, which may be anyone's.
    command = [sys.executable, "-P", "-m", "relayd", "check", "--json", "-c", str(directory)]
    return _output(command, _CHECK_S, accepted=(0, 1))


def _process(settings: Settings) -> str:
    pid = running_process(settings)
    if pid is None:
        raise MissingError("no process is known that uses the spool")
    lines = [f"process {pid}"]
    for name in _ABOUT_PROCESS:
        try:
            text = Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = f"cannot be read: {words_of(error)}"
        lines += ["", f"== {name}", text]
    with suppress(OSError):
        number = sum(1 for _ in os.scandir(f"/proc/{pid}/fd"))
        lines += ["", f"{number} open files"]
    return "\n".join(lines) + "\n"


def _units(settings: Settings) -> str:
    unit = find_service(spools_in_use(settings).values()).unit
    if unit is None:
        raise MissingError("no unit of systemd starts relayd here")
    try:
        text = _output(["systemctl", "cat", "--no-pager", f"{unit}.service"], _COMMAND_S)
    except MissingError:
        text = unit_text(unit)
    return mask_unit(text)


def _log(settings: Settings, control: Control) -> str:
    try:
        return _journal(settings)
    except MissingError as error:
        why = str(error)
    try:
        warned = control.get("/status")["warned"]["last"]
    except (NotRunningError, NotPermittedError, ControlError) as error:
        raise MissingError(f"{why}; {error}") from None
    except (KeyError, TypeError):
        raise MissingError(f"{why}; relayd is another version, with another answer") from None
    lines = [f"# {why}. These are the last warnings that relayd itself has kept."]
    lines += [f"{one['at']} {one['level']} {one['component']}: {one['text']}" for one in warned]
    return "\n".join(lines) + "\n"


def _journal(settings: Settings) -> str:
    unit = find_service(spools_in_use(settings).values()).unit
    if unit is None:
        raise MissingError("no unit of systemd runs relayd, so its log is where it was started")
    command = ["journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(_LOG_LINES)]
    text = _output([*command, "-u", unit], _COMMAND_S)
    if not text.strip():
        raise MissingError(f"the journal has no line of {unit} that this user may read")
    return text


def _output(command: Sequence[str], seconds: float, accepted: Sequence[int] = (0,)) -> str:
    """Return what a command prints, in bounded time.

    Raises:
        MissingError: there is no such command, it fails, or it takes too long.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except OSError as error:
        raise MissingError(f"{command[0]}: {words_of(error)}") from None
    except subprocess.TimeoutExpired:
        raise MissingError(f"{command[0]} did not finish within {seconds:g} s") from None
    if done.returncode not in accepted:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        detail = printable(last, 200) or f"exit code {done.returncode}"
        raise MissingError(f"{command[0]}: {detail}")
    return done.stdout[-_MOST_BYTES:].decode(errors="replace")


def _spool(settings: Settings) -> str:
    spools = {str(kind): spool.directory for kind, spool in spools_in_use(settings).items()}
    places = {**spools, "state": settings.general.state_directory}
    lines: list[str] = []
    for name, place in places.items():
        lines += _space(name, place)
        lines += _tree(place)
    return "\n".join(lines) + "\n"


def _space(name: str, place: Path) -> Iterator[str]:
    yield f"== {name}: {printable(shown(str(place)))}"
    try:
        status = os.statvfs(place)
    except OSError as error:
        yield f"cannot be read: {words_of(error)}"
        return
    free, total = (blocks * status.f_frsize for blocks in (status.f_bavail, status.f_blocks))
    yield f"{free:,} of {total:,} bytes free, {status.f_favail:,} of {status.f_files:,} inodes"


def _tree(root: Path) -> Iterator[str]:
    """Yield the entries of a directory and those below; of large ones only their number."""
    waiting, seen = [root], 0
    while waiting and seen < _MOST_DIRECTORIES:
        directory = waiting.pop()
        seen += 1
        try:
            names, total = _entries(directory)
        except OSError as error:
            yield f"{printable(shown(str(directory)))}: {words_of(error)}"
            continue
        yield f"{printable(shown(str(directory)))}: {total:,} entries"
        if total > MOST_ENTRIES:
            yield f"  more than {MOST_ENTRIES:,}, which are not listed"
            continue
        for entry in names:
            yield f"  {_entry(entry)}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
    if waiting:
        yield "further directories are left out"


def _entries(directory: Path) -> tuple[list[os.DirEntry[str]], int]:
    kept: list[os.DirEntry[str]] = []
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            total += 1
            if total <= MOST_ENTRIES:
                kept.append(entry)
            if total >= _MOST_COUNTED:
                break
    return sorted(kept, key=lambda entry: entry.name), total


def _entry(entry: os.DirEntry[str]) -> str:
    name = printable(shown(entry.name))
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return f"{name}: {words_of(error)}"
    at = in_utc(status.st_mtime)
    return f"{status.st_mode:06o} {status.st_uid}:{status.st_gid} {status.st_size:>12} {at} {name}"
