"""The screen of `relayd status`, as lines of text. Each line of trouble ends with a command."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from relayd.overview.model import FailedState, Lag, NodesState, OutputState, Overview
from relayd.overview.sentence import awaited, held_words, moment
from relayd.system.amounts import UNKNOWN, age, counted, precise, size
from relayd.system.printable import ELLIPSIS, printable

#: Columns of the narrowest terminal.
WIDTH: Final = 80
_LABEL: Final = 13
#: Columns of the first of two times in a row.
_HALF: Final = 32
#: Reasons of refused files that are named.
_REASONS: Final = 3
#: Between a trouble and the next command.
_GAP: Final = "   "
_SERVERS: Final = {"root": "root server", "relay": "relay"}
_ROLES: Final = {"database": "last commit", "upstream": "last upload"}


class _Row(NamedTuple):
    """A row of the screen.

    Attributes:
        text: what is so.
        command: the next one, if it is a trouble; else "".
    """

    text: str
    command: str = ""


def status_lines(overview: Overview, width: int = WIDTH) -> Iterator[str]:
    """Yield the lines of the screen; only those of rows may be longer than `width`."""
    yield heading(overview)
    advice = f"{_GAP}{overview.advice}" if overview.advice else ""
    sentence = f"{printable(overview.sentence)}{advice}"
    yield from textwrap.wrap(sentence, width, break_on_hyphens=False)
    yield ""
    for label, row in _rows(overview, width):
        line = f"{label:<{_LABEL}}{row.text}"
        if not row.command:
            yield line
        elif len(line) + len(_GAP) + len(row.command) <= width:
            yield f"{line}{_GAP}{row.command}"
        else:  # in a line of its own, so that a narrow terminal does not cut it
            yield line
            yield f"{'':<{_LABEL}}{row.command}"


def _rows(overview: Overview, width: int) -> Iterator[tuple[str, _Row]]:
    """Yield label and content of each row."""
    if "reporting" in overview.kinds or not overview.kinds:
        yield "run logs", _Row(_flow(overview))
    yield "waiting", _backlog(overview)
    if overview.lag is not None and overview.lag.here is not None:
        yield from zip(("lag", ""), map(_Row, _lag(overview.lag, width - _LABEL)), strict=False)
    for output in overview.outputs:
        yield output.name, _output(output, overview.at)
    yield "nodes", _nodes(overview.nodes)
    yield "failed", _failed(overview.failed, width - _LABEL)
    if overview.held or overview.nodes_on_hold:
        yield "on hold", _Row(held_words(overview), "relayd queue list --state held")
    if overview.pause is not None and overview.state != "paused":
        yield "paused", _Row(f"by {overview.pause.by}", "relayd resume")
    yield "since start", _Row(_cut(_warned(overview), max(WIDTH, width) - _LABEL))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}{ELLIPSIS}"


def heading(overview: Overview) -> str:
    """Return which relayd this is, and for how long it runs."""
    name = printable(overview.hostname or overview.node_id)
    up = ""
    if overview.role == name == "root":
        name = ""  # the id of every root server says nothing
    if overview.started is not None:
        up = f", up {age(overview.at - overview.started)}"
    return f"relayd {overview.version}, {f'{_SERVERS[overview.role]} {name}'.rstrip()}{up}"


def _flow(overview: Overview) -> str:
    flow = overview.flow
    done = "stored" if overview.role == "root" else "forwarded"
    if flow is None:
        return "".join(f"{f'{UNKNOWN} {what}':<21}" for what in ("in", done, "refused")).rstrip()
    rates = ((flow.arrived, "in"), (flow.done, done), (flow.refused, "refused"))
    return "".join(f"{f'{_rate(rate)}/min {what}':<21}" for rate, what in rates).rstrip()


def _rate(per_minute: float) -> str:
    return f"{per_minute:,.0f}" if per_minute >= 9.95 else f"{per_minute:.2g}"


def _backlog(overview: Overview) -> _Row:
    backlog = overview.backlog
    oldest = UNKNOWN if backlog.oldest_s is None or not backlog.files else age(backlog.oldest_s)
    moves = backlog.drained_in_s is not None and overview.state != "paused"
    end = f"time to drain {precise(backlog.drained_in_s or 0.0) if moves else UNKNOWN}"
    if backlog.files and overview.state == "waiting":
        end = f"waits for the {awaited(overview)}"
    text = f"{backlog.files:<21,}{f'oldest {oldest}':<21}{end}"
    return _Row(text, "relayd queue shape" if backlog.grows else "")


def _lag(lag: Lag, width: int) -> Sequence[str]:
    """Return both times, in one line if they fit."""
    here = _quantiles("here", lag.here, lag.here_p99)
    whole = _quantiles("from run start", lag.whole, lag.whole_p99)
    line = f"{f'{here}{_GAP}':<{_HALF}}{whole}".rstrip()
    return (line,) if len(line) <= width else (here, whole)


def _quantiles(what: str, median: float | None, most: float | None) -> str:
    if median is None:
        return ""
    within = f", 99 % in {precise(most)}" if most is not None else ""
    return f"{what} {precise(median)}{within}"


def _output(output: OutputState, now: float) -> _Row:
    parts = [printable(output.server) or "server unknown"]
    if output.role is not None:
        parts.append(output.role)
    if output.up is False:
        since = f" since {moment(output.since, now)}" if output.since is not None else ""
        parts.append(f"not available{since}")
    elif output.last_done is not None:
        parts.append(f"{_ROLES[output.name]} {precise(now - output.last_done)} ago")
    elif output.up is None:
        parts.append("not used yet")
    return _Row(", ".join(parts), "relayd check" if output.up is False else "")


def _nodes(nodes: NodesState) -> _Row:
    if nodes.trouble is not None:
        return _Row(printable(nodes.trouble), "relayd check")
    if nodes.silent is None:
        return _Row(f"{nodes.known:,} in the nodes list; who has reported is {UNKNOWN}")
    heard = f"{nodes.known - nodes.silent:,} of {nodes.known:,} in the last"
    if nodes.observed_s < nodes.silent_after_s:
        return _Row(f"{heard} {age(nodes.observed_s)}; of earlier times nothing is known")
    after = age(nodes.silent_after_s)
    if not nodes.silent:
        return _Row(f"{heard} {after}")
    command = f"relayd nodes --silent {nodes.silent_after_s / 60:.0f}min"
    return _Row(f"{heard} {after}, {nodes.silent:,} silent", command)


def _failed(failed: FailedState, width: int) -> _Row:
    """Return how many there are, with as many of the most frequent reasons as fit."""
    if not failed.files:
        return _Row("0 files")
    reasons = [f"{files:,} {reason}" for reason, files in failed.reasons.items()]
    text = f"{counted(failed.files, 'file')} ({size(failed.bytes)})"
    for number in range(min(len(reasons), _REASONS), 0, -1):
        more = ", …" if number < len(reasons) else ""
        longer = f"{text}: {', '.join(reasons[:number])}{more}"
        if len(longer) <= width:
            return _Row(longer, "relayd failed list")
    return _Row(text, "relayd failed list")


def _warned(overview: Overview) -> str:
    warned = overview.warned
    if warned is None:
        return f"{UNKNOWN} warnings"
    if not warned.count or not warned.last:
        return counted(warned.count, "warning")
    last = warned.last[-1]
    text = printable(f"{last.component}: {last.text}")
    return f"{counted(warned.count, 'warning')}, last {moment(last.at, overview.at)}: {text}"
