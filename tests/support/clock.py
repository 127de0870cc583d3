"""A wall clock of its own for a process, which a test sets while the process runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock_shim.c")


class ShiftedClock:
    """The wall clock that processes with `env` see; their monotonic clocks are the real ones.

    Attributes:
        env: what to add to the environment of a process.
    """

    def __init__(self, directory: Path) -> None:
        """Compiles what shifts the clock; skips the test where there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("a clock of one process only takes a C compiler")
        library = directory / "clock_shim.so"
        options = ("-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl")
        subprocess.run([compiler, *options], check=True)
        self._offset = directory / "offset"
        self.env = {"LD_PRELOAD": str(library), "RELAYD_CLOCK_OFFSET": str(self._offset)}
        self.set(0)

    def set(self, seconds: float) -> None:
        """From now on the clock is this much ahead of the real one, or behind."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(int(seconds)))
        os.rename(new, self._offset)  # noqa: PTH104
