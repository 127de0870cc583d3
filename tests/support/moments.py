"""Signals at many moments of a program's start: whenever it imports a module.

`environment` makes Python call `watch` before the program. From the first import that follows the
program's first lines, the process then signals itself or copies of itself.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Final

#: The first import that comes after the first lines.
_FIRST: Final = "relayd.system"
STOP: Final = (signal.SIGINT, signal.SIGTERM)
#: Exit codes of a copy in which a signal became an exception, or had no effect.
_RAISED, _SURVIVED = 98, 99


def environment(directory: Path, until: str, every: int = 0) -> dict[str, str]:
    """Return variables with which a Python program gets signals.

    Args:
        directory: where to put the module that Python imports before a program, see site(3).
        until: name of a module that has a `run` or `command` after the last moment.
        every: with 0, the process itself gets SIGHUP at each moment. Otherwise a copy gets each
            signal of `STOP` at each moment of this number; the process writes `NUMBER CODE MODULE`
            on its standard output, with the exit code of the copy, and ends after the last moment.
    """
    directory.mkdir()
    start = f"from tests.support import moments\nmoments.watch({until!r}, {every})\n"
    (directory / "sitecustomize.py").write_text(start)
    return {"PYTHONPATH": f"{directory}{os.pathsep}{Path(__file__).parents[2]}"}


def watch(until: str, every: int) -> None:
    """Signal this process, see `environment`."""
    seen = 0

    def note(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if seen < 0 or (not seen and arguments[:1] != (_FIRST,)):
            return
        if _is_past(until):
            seen = -1
            if every:
                os._exit(0)
        elif event == "import":
            seen += 1
            if not every:
                os.kill(os.getpid(), signal.SIGHUP)
            elif seen % every == 1:
                for number in STOP:
                    os.write(1, b"%d %d %a\n" % (number, _code_of_copy(number), arguments[0]))

    sys.addaudithook(note)


def _is_past(until: str) -> bool:
    module = sys.modules.get(until)
    return hasattr(module, "run") or hasattr(module, "command")


def _code_of_copy(number: int) -> int:
    """Return how a copy of this process ends that gets a signal."""
    copy = os.fork()
    if not copy:
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            os._exit(_RAISED)
        os._exit(_SURVIVED)
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
