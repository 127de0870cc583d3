"""Lines of the live display, chosen by importance to fit the height of the terminal."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from rich.text import Text

_CUT: Final = " …"
#: A space at which no line is wrapped; `textwrap` knows only the spaces of ASCII.
_FIXED: Final = "\N{NO-BREAK SPACE}"


class Rank(IntEnum):
    """Importance of a line: if not all fit, those with the highest numbers are left out."""

    STATE = 0
    COUNT = 1
    STORY = 2
    RATE = 3
    RELAYS = 4
    REASONS = 5
    REMOTE_RUNS = 6
    HINT = 7
    DETAILS = 8
    RUNS = 9


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that stand together; as many of them are shown as fit.

    Attributes:
        lines: the lines, the most important first.
        first: rank of the first line.
        rest: rank of the other lines, not below `first`.
        least: do not show fewer lines than these.
        flowing: the lines are one text, whose end must be marked where it is cut.
    """

    lines: Sequence[Text]
    first: Rank
    rest: Rank
    least: int = 1
    flowing: bool = False

    def begin(self, count: int) -> list[Text]:
        """Return the first lines."""
        shown = [line.copy() for line in self.lines[:count]]
        if self.flowing and 0 < count < len(self.lines):
            shown[-1].append(_CUT)
        for line in shown:
            line.no_wrap, line.overflow = True, "ellipsis"
        return shown


def fit(blocks: Sequence[Block], height: int) -> list[list[Text]]:
    """Return, for each block, the lines to show: not more than `height` in total."""
    ranked = sorted(
        (block.rest if line else block.first, place)
        for place, block in enumerate(blocks)
        for line in range(len(block.lines))
    )
    counts = Counter(place for _, place in ranked[:height])
    for place, block in enumerate(blocks):
        if 0 < counts[place] < block.least:
            # Its lines are of no use alone; others may need the rows.
            empty = Block([], block.first, block.rest)
            return fit([*blocks[:place], empty, *blocks[place + 1 :]], height)
    return [block.begin(counts[place]) for place, block in enumerate(blocks)]


def paragraph(
    text: str, width: int, first: Rank, rest: Rank, *, style: str = "", indent: str = ""
) -> Block:
    """Return a text, wrapped.

    Args:
        text: the text.
        width: columns.
        first: rank of its first line.
        rest: rank of its other lines.
        style: style of the text.
        indent: what the lines after the first begin with; left out if it takes half the width.
    """
    lines = _wrap(text, width, "", indent)
    return Block([Text(line, style) for line in lines], first, rest, flowing=True)


def enumeration(items: Sequence[str], width: int, rank: Rank, indent: str) -> Block:
    """Return items separated by commas; no item is divided between two lines."""
    text = ", ".join(item.replace(" ", _FIXED) for item in items)
    lines = _wrap(text, width, indent, indent)
    return Block([Text(line.replace(_FIXED, " ")) for line in lines], rank, rank, flowing=True)


def command_line(command: str, width: int) -> Block:
    """Return a command for a shell, continued with backslashes, so that it can be copied."""
    # Not one column less than the terminal has: spaces after a backslash would change its meaning.
    step = width if len(command) <= width else max(1, width - 1)
    parts = [command[place : place + step] for place in range(0, len(command), step)]
    lines = [Text(f"{part}\\") for part in parts[:-1]] + [Text(parts[-1])]
    return Block(lines, Rank.HINT, Rank.HINT, least=len(lines))


def _wrap(text: str, width: int, initial: str, subsequent: str) -> list[str]:
    if 2 * max(len(initial), len(subsequent)) > width:
        initial = subsequent = ""
    return textwrap.wrap(
        text,
        max(1, width),
        initial_indent=initial,
        subsequent_indent=subsequent,
        break_on_hyphens=False,
    )
