"""Output of `relayd failed`. Everything that comes from a file is made printable first."""

import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relayd.commands.console import NARROWEST
from relayd.overview.documents import json_line
from relayd.overview.sentence import moment
from relayd.spool.failed.refusals import ADVICE, Group, Refusal
from relayd.spool.failed.returning import Done, Outcome
from relayd.system.amounts import age, counted, size
from relayd.system.clock import in_utc
from relayd.system.printable import printable, shown

_DONE: Final[dict[Outcome, str]] = {
    "back": "moved back",
    "refused": "would be refused again",
    "taken": "not moved, the spool has a file of this name",
    "gone": "gone meanwhile",
    "removed": "removed",
    "error": "not possible",
}
#: The same for a trial.
_WOULD: Final[dict[Outcome, str]] = _DONE | {"back": "would be moved back"}
#: Files that are listed one by one among those that were not moved.
_LISTED: Final = 10
#: Columns of a terminal in which what to do fits beside the numbers.
_WIDE: Final = 60


def show_groups(console: Console, groups: Sequence[Group]) -> None:
    """Print one line for each reason; in a narrow terminal, what to do is on lines of its own."""
    wide = console.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("REASON", no_wrap=True)
    table.add_column("FILES", justify="right", no_wrap=True)
    table.add_column("NODES", justify="right", no_wrap=True)
    table.add_column("OLDEST", no_wrap=True)
    if wide:
        table.add_column("WHAT TO DO", overflow="fold")
    for group in groups:
        table.add_row(
            group.reason,
            f"{group.files:,}",
            f"{group.nodes:,}" if group.nodes else "",
            age(group.oldest_s),
            *([group.advice] if wide else []),
        )
    console.print(table)
    for group in () if wide else groups:
        console.print(f"{group.reason}: {group.advice}")


def show_refusals(console: Console, refusals: Sequence[Refusal]) -> None:
    """Print some lines for each file."""
    now = time.time()
    for refusal in refusals:
        # Not divided into lines here, so that it can be copied from a narrow terminal.
        path = Text(printable(shown(str(refusal.path))), style="bold")
        console.print(path, soft_wrap=True)
        facts = Table.grid(padding=(0, 2))
        facts.add_column(no_wrap=True, style="dim")
        facts.add_column(overflow="fold")
        facts.add_row("reason", refusal.reason)
        if refusal.detail:
            facts.add_row("detail", Text(printable(refusal.detail)))
        facts.add_row("what to do", ADVICE[refusal.reason])
        if refusal.node_id:
            names = filter(None, (refusal.hostname, refusal.node_id))
            facts.add_row("node", Text("   ".join(map(printable, names))))
        facts.add_row("refused", f"{moment(refusal.at, now)}, {age(now - refusal.at)} ago")
        facts.add_row("size", size(refusal.size))
        console.print(facts)


def total(refusals: Sequence[Refusal]) -> str:
    """Return the sum of some files, as `41 files (612 kB)`."""
    octets = sum(refusal.size for refusal in refusals)
    return f"{counted(len(refusals), 'file')} ({size(octets)})"


def total_of(groups: Sequence[Group]) -> str:
    """Return the same sum of some groups."""
    octets = sum(group.size for group in groups)
    return f"{counted(sum(group.files for group in groups), 'file')} ({size(octets)})"


def summary(results: Sequence[Done], *, trial: bool = False, width: int = NARROWEST) -> list[str]:
    """Return what was done, a line for each outcome, followed by the files that need a look."""
    texts = _WOULD if trial else _DONE
    lines = [
        line
        for outcome, files in Counter(result.outcome for result in results).items()
        for line in textwrap.wrap(
            f"{counted(files, 'file')} {texts[outcome]}{_reasons(results, outcome)}", width
        )
    ]
    stayed = [result for result in results if result.outcome in {"taken", "error"}]
    lines += [
        f"{printable(result.refusal.path.name)}: {printable(result.detail)}"
        for result in stayed[:_LISTED]
    ]
    if len(stayed) > _LISTED:
        lines.append(f"… and {counted(len(stayed) - _LISTED, 'more file')}")
    return lines


def _reasons(results: Iterable[Done], outcome: Outcome) -> str:
    if outcome != "refused":
        return ""
    reasons = Counter(result.reason for result in results if result.outcome == outcome)
    return ": " + ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())


def group_as_json(group: Group) -> str:
    """Return a group as one line of JSON."""
    return _line(
        reason=group.reason,
        files=group.files,
        nodes=group.nodes,
        bytes=group.size,
        oldest_seconds=round(group.oldest_s, 3),
        advice=group.advice,
    )


def refusal_as_json(refusal: Refusal) -> str:
    """Return a file as one line of JSON."""
    return _line(**_facts(refusal), detail=refusal.detail, bytes=refusal.size)


def done_as_json(result: Done) -> str:
    """Return what became of a file as one line of JSON."""
    return _line(
        **_facts(result.refusal),
        outcome=result.outcome,
        reason_now=result.reason,
        detail=result.detail,
    )


def _facts(refusal: Refusal) -> dict[str, Any]:
    return {
        "file": shown(str(refusal.path)),
        "name": refusal.name,
        "reason": refusal.reason,
        "node": refusal.node_id,
        "hostname": refusal.hostname,
        "refused_at": in_utc(refusal.at),
    }


def _line(**values: Any) -> str:
    return json_line(values)
