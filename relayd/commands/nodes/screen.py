"""Output of `relayd nodes` and `relayd node`. What comes from files is made printable first."""

import re
import shlex
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relayd.commands.console import NARROWEST
from relayd.overview.node_words import LATE_S, OUTCOMES, inventory_words, node_hold_words, run_words
from relayd.overview.nodes import NodeRow, NodesChoice, NodesPage
from relayd.overview.one_node import CertificateFacts, FileFacts, HopState, NodeDetail
from relayd.overview.sentence import moment
from relayd.system.amounts import UNKNOWN, age, counted, precise
from relayd.system.clock import in_calendar
from relayd.system.printable import printable

_LABEL: Final = 14
#: Refused files of a node whose reasons are shown.
_REFUSED: Final = 3
#: An IPv4 address in place of a host name.
_NUMBERS: Final = re.compile(r"[0-9.]+")
#: Blanks between a trouble and the next command, where a line may end.
_GAP: Final = re.compile(" {3,}")


def show_nodes(console: Console, page: NodesPage, now: float) -> None:
    """Print one line for each node."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("NODE", overflow="fold", min_width=12)
    table.add_column("LAST LOG", no_wrap=True)
    table.add_column("OUTCOME", no_wrap=True)
    table.add_column("WAIT", justify="right", no_wrap=True)
    table.add_column("FAILED", justify="right", no_wrap=True)
    table.add_column("/HOUR", justify="right", no_wrap=True)
    table.add_column("THROUGH", overflow="fold")
    relays = short_names({row.relay for row in page.rows})
    for row in page.rows:
        table.add_row(
            Text(printable(row.hostname or row.node_id)),
            f"{age(now - row.last_arrival)} ago" if row.last_arrival is not None else "never",
            _outcome(row),
            f"{row.waiting:,}" if row.waiting else "",
            f"{row.failed:,}" if row.failed else "",
            f"{row.last_hour:,}{' floods' if 'flooding' in row.troubles else ''}",
            Text(printable(relays[row.relay])),
        )
    console.print(table)


def short_names(names: Iterable[str]) -> Mapping[str, str]:
    """Return each host name without its domain, unless two would be called the same."""
    short = {name: name if _NUMBERS.fullmatch(name) else name.partition(".")[0] for name in names}
    if len(set(short.values())) < len(short):
        return {name: name for name in short}
    return short


def _outcome(row: NodeRow) -> str:
    if row.outcome == "refused" and row.reason is not None:
        return row.reason
    return UNKNOWN if row.outcome is None else row.outcome


def nodes_summary(page: NodesPage, choice: NodesChoice, width: int = NARROWEST) -> str:
    """Return the last lines: how many there are, and what to do."""
    parts = [f"{page.total:,} of {counted(page.known, 'node')}"]
    if choice.silent is not None and page.observed_s < choice.silent:
        parts.append(f"arrivals are known for {age(page.observed_s)} only")
    if page.total > len(page.rows):
        parts.append(f"the first {len(page.rows):,} are shown, see --limit")
    sentence = f"{'; '.join(parts)}."
    more = "relayd node NODE shows more about one."
    gap = " " if len(sentence) + len(more) < width else "\n"
    return f"{sentence}{gap}{more}"


def node_lines(
    detail: NodeDetail,
    now: float | None = None,
    *,
    follow: bool = False,
    width: int = NARROWEST,
) -> Iterator[str]:
    """Yield the lines about one node.

    Args:
        detail: all about it.
        now: Unix time; the present if None.
        follow: whether the relays on the way were to be asked.
        width: columns; only a name or a command that is longer than a line makes a longer line.
    """
    for line in _long_lines(detail, time.time() if now is None else now, follow=follow):
        yield from _wrapped(line, width)


def _wrapped(line: str, width: int) -> Iterator[str]:
    """Yield a line, or several with what follows below its text; a command is never divided."""
    if len(line) <= width:
        yield line
        return
    label, text = line[:_LABEL], line[_LABEL:]
    texts = _GAP.split(text)
    command = texts.pop() if len(texts) > 1 else ""
    parts = textwrap.wrap(
        "   ".join(texts),
        width - _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if command and parts and len(parts[-1]) + 3 + len(command) <= width - _LABEL:
        parts[-1] += f"   {command}"
    elif command:
        parts.append(command)
    for number, part in enumerate(parts):
        yield f"{'' if number else label:<{_LABEL}}{part}"


def _long_lines(detail: NodeDetail, now: float, *, follow: bool) -> Iterator[str]:
    row = detail.row
    yield f"{printable(row.hostname or row.node_id)}   {printable(row.node_id)}"
    yield _row("way", _way(detail))
    if detail.trouble is not None:
        yield _row("", f"{printable(detail.trouble)}   relayd check")
    yield from _certificates(detail, now)
    yield from _last_run(detail, now)
    if inventory := inventory_words(detail, now):
        yield _row("inventory", inventory)
    name = _word(row)
    yield _row("waiting", _waiting(name, row.waiting, detail.waiting, now))
    if hold := node_hold_words(detail, now):
        yield _row("on hold", f"{hold}   relayd queue release --node {name}")
    yield from _failed(name, row.failed, detail.failed, now)
    if "flooding" in row.troubles:
        hold = f"relayd queue hold --node {name}"
        yield _row("floods", f"{counted(row.last_hour, 'run log')} in the last hour   {hold}")
    if follow:
        yield from _hops(detail, now)


def _hops(detail: NodeDetail, now: float) -> Iterator[str]:
    """Yield a line for each relay on the way; a relay that needs someone ends with a command."""
    if detail.hops is None:
        yield _row("relays", f"{UNKNOWN} (only a running relayd can ask them)   relayd check")
    elif not detail.hops:
        yield _row("relays", "none on the way")
    for hop in detail.hops or ():
        name = printable(hop.hostname or hop.relay)
        yield _row(name if len(name) < _LABEL else f"{name}   ", _hop(hop, now))


def _hop(hop: HopState, now: float) -> str:
    if hop.trouble is not None:
        return f"{UNKNOWN} ({printable(hop.trouble)})   there: relayd status"
    parts = [_hop_outcome(hop, now)]
    if hop.waiting:
        parts.append(f"{counted(hop.waiting, 'file')} {'waits' if hop.waiting == 1 else 'wait'}")
    if hop.failed:
        parts.append(f"{counted(hop.failed, 'refused file')} kept   there: relayd failed list")
    elif hop.waiting:
        parts[-1] += "   there: relayd status"
    return ", ".join(parts)


def _hop_outcome(hop: HopState, now: float) -> str:
    arrived = hop.last_arrival
    if hop.outcome is None or hop.outcome_at is None:
        return "no run log" if arrived is None else f"arrived {moment(arrived, now)}"
    reason = f" ({hop.reason})" if hop.reason is not None else ""
    text = f"{OUTCOMES[hop.outcome]}{reason} {moment(hop.outcome_at, now)}"
    if arrived is None:
        return text
    if arrived > hop.outcome_at + LATE_S:
        return f"{text}, the next arrived {moment(arrived, now)}"
    return f"{text}, {precise(max(0.0, hop.outcome_at - arrived))} after it arrived there"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def _way(detail: NodeDetail) -> str:
    names = [detail.server, *detail.way, detail.row.hostname or detail.row.node_id]
    return " \N{LEFTWARDS ARROW} ".join(printable(name) for name in names)


def _certificates(detail: NodeDetail, now: float) -> Iterator[str]:
    if not detail.certificates:
        yield _row("certificate", "none   relayd check")
    for certificate in detail.certificates:
        yield _row("certificate", f"{certificate.key}, {_validity(certificate, now)}")


def _validity(certificate: CertificateFacts, now: float) -> str:
    if now > certificate.ends:
        return f"expired on {_day(certificate.ends)}, still trusted"
    if now < certificate.begins:
        return f"valid from {_day(certificate.begins)} on, trusted already"
    return f"valid until {_day(certificate.ends)}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(in_calendar(at)))


def _last_run(detail: NodeDetail, now: float) -> Iterator[str]:
    row = detail.row
    if row.last_arrival is None and row.last_run is None:
        yield _row("last run log", f"none is known here   relayd run {_word(row)}")
    else:
        yield _row("last run log", ", ".join(run_words(row, now)))
        if content := _content(detail):
            yield _row("", content)
    if detail.role == "root":
        yield _row("in database", _in_database(detail, now))
    yield _row("pace", _pace(detail))


def _word(row: NodeRow) -> str:
    """Return the name of a node as a word for a shell: nodes choose their host names."""
    return shlex.quote(printable(row.hostname or row.node_id))


def _in_database(detail: NodeDetail, now: float) -> str:
    if detail.database is not None:
        return f"last run started {moment(detail.database, now)}"
    if detail.database_trouble is not None:
        return f"{UNKNOWN} ({printable(detail.database_trouble)})   relayd check"
    return "no run"


def _content(detail: NodeDetail) -> str:
    parts = []
    if detail.reports is not None:
        parts.append(counted(detail.reports, "report"))
    if detail.config_id is not None:
        parts.append(f"configuration {printable(detail.config_id)}")
    return ", ".join(parts)


def _pace(detail: NodeDetail) -> str:
    parts = [f"{counted(detail.row.last_hour, 'run log')} in the last hour"]
    if detail.row.lag_s is not None:
        parts.append(f"done {precise(detail.row.lag_s)} after the start of the run")
    if detail.ahead_s is not None and detail.ahead_s > 0:
        parts.append(f"clock at least {precise(detail.ahead_s)} ahead")
    return ", ".join(parts)


def _waiting(name: str, number: int, files: Sequence[FileFacts], now: float) -> str:
    if not number:
        return "none"
    oldest = f", the oldest for {age(now - files[0].at)}" if files else ""
    return f"{counted(number, 'file')}{oldest}   relayd queue show --node {name}"


def _failed(name: str, number: int, files: Sequence[FileFacts], now: float) -> Iterator[str]:
    """Yield the number of refused files, and the reasons of the last ones."""
    if not number:
        yield _row("failed", "none")
        return
    yield _row("failed", f"{counted(number, 'file')}   relayd failed show --node {name}")
    for file in files[: -_REFUSED - 1 : -1]:
        detail = f": {printable(file.detail)}" if file.detail else ""
        yield _row("", f"{age(now - file.at)} ago, {file.reason}{detail}")
