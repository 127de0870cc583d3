"""The daemon as a command: its exit codes, and its errors as one line each.

It needs neither a parser for options nor anything else that takes time to import: see
`relayd.commands.entry`.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relayd.commands.failing import complain
from relayd.errors import ConfigError, RelaydError, StartError, TransientStartError
from relayd.service.signals import early_signals
from relayd.system.lean import load_lean

DEFAULT_DIRECTORY: Final = Path("/opt/rudder/etc/relayd")
#: Environment variable that names another one for `relayd`; `rudder-relayd` does not know it.
DIRECTORY_VARIABLE: Final = "RELAYD_CONFIG"

EXIT_CONFIG: Final = 2
EXIT_START: Final = 3
EXIT_TRANSIENT: Final = os.EX_TEMPFAIL


class _Started:
    """The daemon that this process is, once it has been asked to be one.

    Attributes:
        directory: its configuration.
    """

    directory: Path | None = None


_started = _Started()


def is_daemon() -> bool:
    """Return whether this process has been asked to be the daemon."""
    return _started.directory is not None


def run_daemon(directory: Path) -> int:
    """Run the daemon until a signal ends it, and return its exit code.

    Raises:
        ConfigError: a configuration file is not valid.
        StartError: anything else prevents the start.
    """
    _started.directory = directory
    early_signals.install()
    # Nearly all that is made during the start is kept: looking for garbage takes a tenth of it.
    # The service enables the collector once it has started.
    gc.disable()
    load_lean("trio")
    from relayd.service.tree import run

    return run(directory)


def exit_code(call: Callable[[], object]) -> int:
    """Call and return the exit code; report what prevents a start in one line for each error."""
    try:
        result = call()
    except ConfigError as error:
        return _fail_each(error, EXIT_CONFIG)
    except StartError as error:
        transient = isinstance(error, TransientStartError)
        return _fail_each(error, EXIT_TRANSIENT if transient else EXIT_START)
    return result if isinstance(result, int) else 0


def _fail_each(error: RelaydError, code: int) -> int:
    """Report what may be the cause, then each error, on one line each."""
    for warning in error.warnings:
        complain(str(warning), _started.directory, "warning")
    for one in error.each():
        fail(str(one), code)
    return code


def fail(text: str, code: int) -> int:
    """Report an error in one line, and return the exit code."""
    complain(text, _started.directory)
    return code
