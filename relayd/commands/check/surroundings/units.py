"""Units of systemd, read from their files: systemd itself may not run, as in a container."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from relayd.commands.check.surroundings.processes import holder_of, service_of
from relayd.spool.layout import Spool

#: Directories of units, see systemd.unit(5); the first one that has a unit wins.
DIRECTORIES: Final = tuple(
    Path(base) / "systemd/system" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
#: What the helper runs and reads unless its unit names something else.
COMMAND: Final = Path("/opt/rudder/bin/rudder")
NODES_LIST: Final = Path("/var/rudder/lib/relay/nodeslist.json")

#: Keys that name directories, and where these are.
_MADE: Final = {"RuntimeDirectory": Path("/run"), "StateDirectory": Path("/var/lib")}
_HELPER: Final = "rudder-relayd-helper@.service"
#: Units of the daemon: that of the package, and that of the source tree, whose name is also that
#: of the unit of Rudder's own daemon.
_UNITS: Final = ("relayd", "rudder-relayd")
#: Programs of these names are the daemon; Rudder's is one for the processor.
_PROGRAMS: Final = frozenset(_UNITS)
_MACHINE_CODE: Final = b"\x7fELF"


class HelperUnit(NamedTuple):
    """What the unit of the root helper says.

    Attributes:
        found: whether there is such a unit; without one, the rest is what the helper defaults to.
        command: the command that it runs.
        nodes_list: the list of the hosts that it accepts.
    """

    found: bool
    command: Path = COMMAND
    nodes_list: Path = NODES_LIST


class Service(NamedTuple):
    """How the daemon is started, and the commands with which an administrator acts on it.

    Attributes:
        unit: its unit of systemd, without `.service`; None if no unit is known to run it.
        pid: its process, None if it does not run or is not known.
    """

    unit: str | None
    pid: int | None

    def act(self, verb: Literal["reload", "restart"]) -> str:
        """Return how to reload or restart it."""
        if self.unit is not None:
            return f"systemctl {verb} {self.unit}"
        if self.pid is None:
            return f"{verb} relayd, for which there is no unit of systemd here"
        if verb == "reload":
            return f"kill -HUP {self.pid}"
        return f"end process {self.pid}, which no unit of systemd runs, and start relayd again"

    def start(self, directory: Path) -> str:
        """Return how to start it with a configuration directory."""
        if self.unit is None:
            command = f"rudder-relayd -c {shlex.quote(str(directory))}"
            return f"install relayd's unit and start it, or run {command}"
        return f"systemctl start {self.unit}; if it does not run, {self.log}"

    @property
    def log(self) -> str:
        """Where its log is."""
        return "see its log" if self.unit is None else f"journalctl -u {self.unit}"


def find_service(spools: Iterable[Spool]) -> Service:
    """Return the service that has locked one of these spools, or would be started."""
    pid = holder_of(path for spool in spools for path in (spool.directory, *spool.watched))
    if pid is None:
        return Service(_installed_unit(), None)
    unit = service_of(pid)
    return Service(unit if unit is not None and _is_daemon(unit) else None, pid)


def _installed_unit() -> str | None:
    """Return the unit that would start relayd, which Rudder's own of the same name does not."""
    return next(filter(_is_daemon, _UNITS), None)


def _is_daemon(unit: str) -> bool:
    """Return whether a unit starts relayd."""
    words = [word.lstrip("-@:+!") for word in _command_line(f"{unit}.service") or ()]
    return any(Path(word).name in _PROGRAMS and not _is_rudders(word) for word in words[:4])


def _is_rudders(program: str) -> bool:
    try:
        with Path(program).open("rb") as file:
            return file.read(len(_MACHINE_CODE)) == _MACHINE_CODE
    except OSError:
        return False


def read_helper_unit() -> HelperUnit:
    """Return what the unit of the root helper says, its drop-ins included."""
    command_line = _command_line(_HELPER)
    if command_line is None:
        return HelperUnit(found=False)
    return HelperUnit(
        found=True,
        command=Path(_option(command_line, "--command") or COMMAND),
        nodes_list=Path(_option(command_line, "--nodes-list") or NODES_LIST),
    )


def makes_directory(path: Path) -> bool:
    """Return whether the daemon's unit makes a directory when it starts, see systemd.exec(5)."""
    unit = _installed_unit()
    files = _files(f"{unit}.service") if unit else []
    return any(
        path == base / name
        for key, base in _MADE.items()
        for value in _values(files, key)
        for name in value.split()
    )


def service_group() -> tuple[str, str] | None:
    """Return the daemon's unit and the group that it names; None if it names none."""
    unit = _installed_unit()
    if unit is None:
        return None
    groups = [value.strip() for value in _values(_files(f"{unit}.service"), "Group")]
    return (f"{unit}.service", groups[-1]) if groups and groups[-1] else None


def may_bind_low_ports() -> bool:
    """Return whether the daemon's unit gives it the capability for ports below 1024."""
    unit = _installed_unit()
    values = _values(_files(f"{unit}.service"), "AmbientCapabilities") if unit else ()
    return any("CAP_NET_BIND_SERVICE" in value.split() for value in values)


def unit_text(unit: str) -> str:
    """Return the files of a service, each after its name, as `systemctl cat` prints them."""
    texts = []
    for file in _files(f"{unit}.service"):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = f"# cannot be read: {error.strerror}\n"
        texts.append(f"# {file}\n{text}")
    return "\n".join(texts)


def passes_socket(port: int) -> bool:
    """Return whether a unit has systemd listen on a port in place of the daemon."""
    return any(
        value.strip().rpartition(":")[2] == str(port)
        for unit in _UNITS
        for value in _values(_files(f"{unit}.socket"), "ListenStream")
    )


def _option(words: Sequence[str], name: str) -> str | None:
    for position, word in enumerate(words):
        if word == name and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _command_line(unit: str) -> list[str] | None:
    """Return the last command line of a unit, None without the unit."""
    files = _files(unit)
    if not files:
        return None
    lines = [_words(value) for value in _values(files, "ExecStart")]
    return lines[-1] if lines else []


def _values(files: list[Path], key: str) -> Iterator[str]:
    """Yield the values of a key in files of a unit, in their order."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == key:
                yield value


def _files(unit: str) -> list[Path]:
    """Return the files of a unit, drop-ins last; none without the unit."""
    files = [directory / unit for directory in DIRECTORIES if (directory / unit).exists()][:1]
    return [*files, *_drop_ins(unit)] if files else []


def _drop_ins(unit: str) -> Iterator[Path]:
    """Yield drop-ins in the order of their names; of the same name the first directory wins."""
    names: dict[str, Path] = {}
    for directory in DIRECTORIES:
        for path in (directory / f"{unit}.d").glob("*.conf"):
            names.setdefault(path.name, path)
    for name in sorted(names):
        yield names[name]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote: systemd refuses the unit
        return []
