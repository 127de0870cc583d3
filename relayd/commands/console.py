"""The console of commands that print tables."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from relayd.commands.cli import unpadded

#: Width of the output if it does not go to a terminal.
FILE_WIDTH: Final = 160
#: Columns of the narrowest terminal.
NARROWEST: Final = 80


def output_width() -> int:
    """Return the columns of the standard output: those of its terminal, at least 80."""
    if not sys.stdout.isatty():
        return FILE_WIDTH
    return max(NARROWEST, shutil.get_terminal_size((NARROWEST, 24)).columns)


def with_command(text: str, command: str, width: int) -> Iterator[str]:
    """Yield a text and the next command, in one line or, if they do not fit, in two."""
    if not command:
        yield text
    elif len(text) + 1 + len(command) <= width:
        yield f"{text} {command}"
    else:
        yield text
        yield f"  {command}"


@contextmanager
def plain_console() -> Iterator[Console]:
    """Yield a console for the standard output that prints text as it is."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    with unpadded(console):
        yield console
