"""Units of systemd, read from their files: systemd itself may not run, as in a container."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

#: Directories of units, see systemd.unit(5); the first one that has a unit wins.
DIRECTORIES: Final = tuple(
    Path(base) / "systemd/system" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
#: What the helper runs and reads unless its unit names something else.
COMMAND: Final = Path("/opt/rudder/bin/rudder")
NODES_LIST: Final = Path("/var/rudder/lib/relay/nodeslist.json")

_HELPER: Final = "rudder-relayd-helper@.service"


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


def unit_name() -> str:
    """Return the name of the daemon's unit: that of the package, or that of the source tree."""
    packaged = any((directory / "relayd.service").exists() for directory in DIRECTORIES)
    return "relayd" if packaged else "rudder-relayd"


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


def makes_runtime_directory(path: Path) -> bool:
    """Return whether the daemon's unit makes a directory below /run when it starts."""
    return any(
        path == Path("/run") / name
        for value in _values(_files(f"{unit_name()}.service"), "RuntimeDirectory")
        for name in value.split()
    )


def may_bind_low_ports() -> bool:
    """Return whether the daemon's unit gives it the capability for ports below 1024."""
    values = _values(_files(f"{unit_name()}.service"), "AmbientCapabilities")
    return any("CAP_NET_BIND_SERVICE" in value.split() for value in values)


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
