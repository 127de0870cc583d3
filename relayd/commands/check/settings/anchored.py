"""Relative paths: what they mean depends on the directory in which the daemon was started."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from relayd.commands.check.model import Finding, warning
from relayd.commands.check.surroundings.processes import holder_of, working_directory
from relayd.config.main_conf import MAIN_FILE, Settings
from relayd.config.toml import leaves
from relayd.spool.layout import inventory_spool, run_log_spool

T = TypeVar("T", bound=msgspec.Struct)

#: Where systemd starts a service.
_ROOT: Final = Path("/")


class Anchored(NamedTuple):
    """Settings with absolute paths only.

    Attributes:
        settings: the settings.
        findings: a warning for each path that was relative.
        guessed: keys of these paths, by what they mean if systemd starts relayd, which does not
            run now.
    """

    settings: Settings
    findings: list[Finding]
    guessed: dict[Path, str]

    def corrected(self, found: Iterable[Finding]) -> list[Finding]:
        """Return findings with the only fix for a path that is a guess: to say what is meant."""
        return list(map(self._corrected, found))

    def _corrected(self, finding: Finding) -> Finding:
        for path, key in self.guessed.items():
            if Path(finding.where).is_relative_to(path):
                return msgspec.structs.replace(finding, fix=_absolute(key))
        return finding


def anchored(directory: Path, settings: Settings) -> Anchored:
    """Return the settings with absolute paths, and a warning for each that was relative."""
    relative = dict(_relative(settings))
    if not relative:
        return Anchored(settings, [], {})
    base = _base(settings)
    of = "for the running relayd" if base else "under systemd"
    found = []
    for key, path in relative.items():
        what = f"{key} is relative, so {path} means {(base or _ROOT) / path} {of}"
        found.append(warning("configuration.relative", directory / MAIN_FILE, what, _absolute(key)))
    guessed = {} if base else {_ROOT / path: key for key, path in relative.items()}
    return Anchored(_anchor(settings, base or _ROOT), found, guessed)


def _absolute(key: str) -> str:
    return f"set {key} to an absolute path"


def _relative(settings: Settings) -> Iterator[tuple[str, Path]]:
    for key, value in leaves(settings):
        if isinstance(value, Path) and not value.is_absolute():
            yield key, value


def _base(settings: Settings) -> Path | None:
    """Return the directory in which paths begin for the running relayd, None without one."""
    processing = _anchor(settings, _ROOT).processing
    spools = (
        run_log_spool(processing.reporting.directory),
        inventory_spool(processing.inventory.directory),
    )
    pid = holder_of(path for spool in spools for path in (spool.directory, *spool.watched))
    return None if pid is None else working_directory(pid)


def _anchor(value: T, base: Path) -> T:
    changes: dict[str, object] = {}
    for name in value.__struct_fields__:
        field = getattr(value, name)
        if isinstance(field, Path):
            changes[name] = base / field
        elif isinstance(field, msgspec.Struct):
            changes[name] = _anchor(field, base)
    return msgspec.structs.replace(value, **changes)
