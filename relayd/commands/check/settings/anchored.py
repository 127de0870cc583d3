"""Relative paths: what they mean depends on the directory in which the daemon was started."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from relayd.commands.check.model import Finding, warning
from relayd.commands.check.surroundings.processes import holder_of, working_directory
from relayd.config.main_conf import MAIN_FILE, Settings
from relayd.config.toml import leaves
from relayd.spool.layout import inventory_spool, run_log_spool

T = TypeVar("T", bound=msgspec.Struct)

#: Where systemd starts a service.
_ROOT: Final = Path("/")


def anchored(directory: Path, settings: Settings) -> tuple[Settings, list[Finding]]:
    """Return the settings with absolute paths, and a warning for each that was relative."""
    relative = dict(_relative(settings))
    if not relative:
        return settings, []
    base, of = _base(settings)
    found = []
    for key, path in relative.items():
        what = f"{key} is relative, so {path} means {base / path} {of}"
        fix = f"set {key} to an absolute path"
        found.append(warning("configuration.relative", directory / MAIN_FILE, what, fix))
    return _anchor(settings, base), found


def _relative(settings: Settings) -> Iterator[tuple[str, Path]]:
    for key, value in leaves(settings):
        if isinstance(value, Path) and not value.is_absolute():
            yield key, value


def _base(settings: Settings) -> tuple[Path, str]:
    """Return the directory that relative paths begin in, and whose it is."""
    processing = _anchor(settings, _ROOT).processing
    spools = (
        run_log_spool(processing.reporting.directory),
        inventory_spool(processing.inventory.directory),
    )
    pid = holder_of(path for spool in spools for path in (spool.directory, *spool.watched))
    base = None if pid is None else working_directory(pid)
    return (_ROOT, "under systemd") if base is None else (base, "for the running relayd")


def _anchor(value: T, base: Path) -> T:
    changes: dict[str, object] = {}
    for name in value.__struct_fields__:
        field = getattr(value, name)
        if isinstance(field, Path):
            changes[name] = base / field
        elif isinstance(field, msgspec.Struct):
            changes[name] = _anchor(field, base)
    return msgspec.structs.replace(value, **changes)
