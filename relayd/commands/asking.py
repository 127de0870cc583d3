"""Asks the running relayd, or works on the spool itself while none runs."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from relayd.commands.installation import Installation
from relayd.config.durations import parse_duration
from relayd.config.main_conf import Settings
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import StartError
from relayd.overview.server import running_process
from relayd.spool.layout import Spool, is_directory
from relayd.spool.lock import DirectoryLock
from relayd.system.printable import printable, shown
from relayd.system.shortage import words_of

T = TypeVar("T")

#: How long to wait for a command of another operator that works on the spool.
WAIT_S: Final = 5.0
_PAUSE_S: Final = 0.05
#: Digits of a number of seconds.
_DIGITS: Final = 20


def ask(
    site: Installation,
    kind: type[T],
    online: Callable[[Control], Any],
    offline: Callable[[Settings], T],
    *,
    locked: bool = True,
) -> T:
    """Ask relayd, or do it here if none runs.

    Args:
        site: the installation.
        kind: of the answer.
        online: asks.
        offline: does it, with these settings.
        locked: whether it may only be done here while no other process works on the spool.

    Raises:
        StartError: neither is possible.
    """
    try:
        return msgspec.convert(online(Control(site.socket)), kind, from_attributes=True)
    except NotRunningError as error:
        settings = site.needed(error)
        process = _wait_for_others(settings) if locked else None
        if process is not None:
            raise StartError(
                f"process {process} works on the spool, but cannot be asked: {error}"
            ) from None
    except NotPermittedError as error:
        raise StartError(site.explained(error)) from None
    except ControlError as error:
        raise StartError(str(error)) from None
    except msgspec.ValidationError as error:
        raise StartError(f"relayd is another version, with another answer: {error}") from None
    try:
        return offline(settings)
    except PermissionError as error:
        place = error.filename or "the spool"
        raise StartError(f"{place} cannot be used: {words_of(error)}") from error


def _wait_for_others(settings: Settings) -> int | None:
    """Return the process that has locked the spool; a command of another operator ends soon."""
    deadline = time.monotonic() + WAIT_S
    while (process := running_process(settings)) is not None and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return process


def lock_all(stack: ExitStack, spools: Iterable[Spool]) -> None:
    """Keep any relayd, and other commands, out of the spools until the stack is closed.

    Raises:
        StartError: another process works on one, or this user may not read it.
    """
    for spool in spools:
        for path in spool.watched:
            if is_directory(path):
                stack.enter_context(DirectoryLock(path))


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float:
    """Return the seconds of an option such as `2h`; 0 if it is not given."""
    return optional_duration(context, parameter, value) or 0.0


def optional_duration(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the seconds of an option such as `2h` or `90`; None if it is not given."""
    if value is None:
        return None
    digits = value.isascii() and value.isdecimal() and len(value) <= _DIGITS
    try:
        return parse_duration(int(value) if digits else value)
    except ValueError as error:
        raise click.BadParameter(f"{printable(value)}: {error}") from error


def file_names(words: Sequence[str]) -> tuple[str, ...]:
    """Return names of files as an operation compares them; a path becomes absolute."""
    return tuple(shown(str(Path(os.path.abspath(word))) if "/" in word else word) for word in words)  # noqa: PTH100  links are not followed
