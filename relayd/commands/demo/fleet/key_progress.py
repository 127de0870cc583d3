"""Progress of the key generation, on the console."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class KeyProgress:
    """Shows the number of finished keys: a bar in a terminal, a few lines elsewhere."""

    def __init__(self, console: Console, count: int, bits: int) -> None:
        self._console, self._count = console, count
        self._text = f"Generating RSA-{bits} keys"
        self._shown = -1
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(self._text, total=count)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, ready: int) -> None:
        """Show that `ready` keys are finished."""
        self._bar.update(self._task, completed=ready)
        quarter = 4 * ready // self._count
        if not self._console.is_terminal and quarter > self._shown:
            self._console.print(f"{self._text}: {ready} of {self._count}")
            self._shown = quarter
