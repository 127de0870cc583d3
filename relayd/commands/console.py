"""The console of commands that print tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from relayd.commands.cli import unpadded

#: Width of the output if it does not go to a terminal.
FILE_WIDTH: Final = 160


@contextmanager
def plain_console() -> Iterator[Console]:
    """Yield a console for the standard output that prints text as it is."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    with unpadded(console):
        yield console
