"""The one table that a run prints."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        measured: the figure with its unit.
        against: what it is compared with and that one's figure, "" for none.
        ratio: the comparison, "" for none.
        asked: what is asked for, "" for nothing.
        met: whether the figure meets it, None when nothing is asked.
    """

    name: str
    measured: str
    against: str = ""
    ratio: str = ""
    asked: str = ""
    met: bool | None = None


def show(title: str, figures: list[Figure]) -> None:
    """Print the table to standard output, plain where that is no terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "measured", "against", "ratio", "asked", ""):
        table.add_column(heading, justify="left" if heading in {"figure", "against"} else "right")
    for figure in figures:
        verdict = {True: "met", False: "[bold]NOT MET[/bold]", None: ""}[figure.met]
        table.add_row(
            *(figure.name, figure.measured, figure.against, figure.ratio, figure.asked, verdict)
        )
    console.print(table)
