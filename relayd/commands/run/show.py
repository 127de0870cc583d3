"""A run on a terminal: lines as they come, then one verdict for each node."""

import re
from collections.abc import Iterator
from typing import Any, Final

from relayd.commands.run.results import NodeResult, Results
from relayd.overview.documents import json_line
from relayd.system.amounts import UNKNOWN
from relayd.system.printable import printable

#: Characters of a name in front of a line of output.
_MAX_NAME: Final = 30
#: Nodes of a run that are all listed; of a larger one those that are not ok.
_LISTED: Final = 50
#: Colors of agents mean nothing here; whatever else a terminal would obey is shown as text.
_COLOR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TAB: Final = 8


class Lines:
    """Turns events into lines for people."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._width = 0

    def of(self, event: dict[str, Any]) -> str | None:
        """Return the line for an event; None if it is not worth one."""
        kind = event.get("event")
        if kind == "node":
            self._padded(self._results.name(event.get("node")))
        if kind == "output":
            name = self._results.name(event.get("node") or event.get("relay"))
            return f"{self._padded(name)} │ {_text(str(event.get('output', '')))}"
        if kind == "dropped":
            return f"… {event['lines']:,} lines are not shown: the terminal is too slow"
        return None

    def _padded(self, name: str) -> str:
        name = printable(name, _MAX_NAME)
        self._width = max(self._width, len(name))
        return name.ljust(self._width)


def _text(line: str) -> str:
    return printable(_COLOR.sub("", line).expandtabs(_TAB))


def table(results: Results) -> Iterator[str]:
    """Yield the lines of the table of verdicts, and the one that counts them."""
    nodes = results.nodes
    everything = len(nodes) <= _LISTED
    rows = [
        _row(results, node_id, result)
        for node_id, result in nodes.items()
        if everything or result.verdict != "ok"
    ]
    if rows:
        yield from _aligned([("NODE", "VERDICT", "TIME", "THROUGH"), *rows])
    yield f"{results.verdicts['ok']:,} of {len(nodes):,} ok"


def _row(results: Results, node_id: str, result: NodeResult) -> tuple[str, ...]:
    time = UNKNOWN if result.seconds is None else _span(result.seconds)
    through = "direct" if result.relay in {"", results.me} else results.name(result.relay)
    if result.detail:
        through = result.detail if through == "direct" else f"{through}: {result.detail}"
    name, through = printable(results.name(node_id)), printable(through)
    return name, _verdict(result), time, through


def _verdict(result: NodeResult) -> str:
    words = result.verdict.replace("_", " ")
    if result.code is None or result.verdict == "ok":
        return words
    return f"{words} ({result.code})" if result.code > 0 else f"{words} (signal {-result.code})"


def _span(seconds: float) -> str:
    """Return a duration, for reading: `0.4 s`, `12 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip(" ")


def event_as_json(event: dict[str, Any]) -> str:
    """Return an event as one line of JSON in plain ASCII, as it came."""
    return json_line({name: value for name, value in event.items() if name != "at"})


def summary_as_json(results: Results, seconds: float, *, complete: bool) -> str:
    """Return the last line of JSON.

    Args:
        results: of all nodes.
        seconds: duration of the run.
        complete: False if the answer broke off.
    """
    verdicts = results.verdicts
    return json_line(
        {
            "event": "summary",
            "nodes": len(results.nodes),
            "ok": verdicts["ok"],
            "verdicts": dict(sorted(verdicts.items())),
            "seconds": round(seconds, 3),
            "complete": complete,
        }
    )
