"""The table of results."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table; unused cells are empty.

    Attributes:
        name: what was measured.
        measured: the figure with its unit.
        reference: what it is compared with, and its figure.
        ratio: the ratio of the two.
        target: the required figure.
        met: whether the target is met; None without a target.
    """

    name: str
    measured: str
    reference: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None


def show(title: str, figures: list[Figure]) -> None:
    """Print the table to standard output, without styles if that is not a terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "measured", "compared with", "ratio", "target", ""):
        text = heading in {"figure", "compared with"}
        table.add_column(heading, justify="left" if text else "right")
    for figure in figures:
        verdict = {True: "met", False: "[bold]NOT MET[/bold]", None: ""}[figure.met]
        table.add_row(
            *(figure.name, figure.measured, figure.reference),
            *(figure.ratio, figure.target, verdict),
        )
    console.print(table)
