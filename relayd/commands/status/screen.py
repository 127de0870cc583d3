"""The screen of `relayd status`, as lines of text. Each line of trouble ends with a command."""

import textwrap
from collections.abc import Iterator
from typing import Final

from relayd.overview.model import FailedState, NodesState, OutputState, Overview
from relayd.overview.sentence import moment
from relayd.system.amounts import age, counted, precise, size
from relayd.system.printable import printable

#: What is not known.
UNKNOWN: Final = "\N{EN DASH}"
#: Columns of the narrowest terminal.
WIDTH: Final = 80
_LABEL: Final = 13
#: Characters of the last warning that are shown.
_WARNING: Final = 100
_SERVERS: Final = {"root": "root server", "relay": "relay"}
_ROLES: Final = {"database": "last commit", "upstream": "last upload"}


def status_lines(overview: Overview, width: int = WIDTH) -> Iterator[str]:
    """Yield the lines of the screen; only those of rows may be longer than `width`."""
    yield heading(overview)
    yield from textwrap.wrap(f"{printable(overview.sentence)}{_hint(overview.advice)}", width)
    yield ""
    if "reporting" in overview.kinds or not overview.kinds:
        yield _row("run logs", _flow(overview))
    yield _row("waiting", _backlog(overview))
    if overview.lag is not None and overview.lag.here is not None:
        yield _row("lag", _lag(overview))
    for output in overview.outputs:
        yield _row(output.name, _output(output, overview.at))
    yield _row("nodes", _nodes(overview.nodes))
    yield _row("failed", _failed(overview.failed))
    if overview.held:
        held = f"{counted(overview.held, 'file')} held by an operator"
        yield _row("held", f"{held}{_hint('relayd queue list --state held')}")
    if overview.pause is not None and overview.state != "paused":
        yield _row("paused", f"by {overview.pause.by}{_hint('relayd resume')}")
    yield _row("since start", _warned(overview))


def heading(overview: Overview) -> str:
    """Return which relayd this is, and for how long it runs."""
    name = printable(overview.hostname or overview.node_id)
    up = ""
    if overview.started is not None:
        up = f", up {age(overview.at - overview.started)}"
    return f"relayd {overview.version}, {_SERVERS[overview.role]} {name}{up}"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def _hint(command: str) -> str:
    return f"   {command}" if command else ""


def _flow(overview: Overview) -> str:
    flow = overview.flow
    done = "stored" if overview.role == "root" else "forwarded"
    if flow is None:
        return f"{UNKNOWN} in          {UNKNOWN} {done}          {UNKNOWN} refused"
    rates = ((flow.arrived, "in"), (flow.done, done), (flow.refused, "refused"))
    return "".join(f"{f'{_rate(rate)}/min {what}':<21}" for rate, what in rates).rstrip()


def _rate(per_minute: float) -> str:
    return f"{per_minute:,.0f}" if per_minute >= 9.95 else f"{per_minute:.2g}"


def _backlog(overview: Overview) -> str:
    backlog = overview.backlog
    oldest = UNKNOWN if backlog.oldest_s is None or not backlog.files else age(backlog.oldest_s)
    drain = UNKNOWN if backlog.drained_in_s is None else precise(backlog.drained_in_s)
    text = f"{backlog.files:<21,}{f'oldest {oldest}':<21}time to drain {drain}"
    return text + (_hint("relayd queue shape") if backlog.grows else "")


def _lag(overview: Overview) -> str:
    lag = overview.lag
    assert lag is not None
    here = _quantiles("here", lag.here, lag.here_p99)
    return f"{here:<32}{_quantiles('from run start', lag.whole, lag.whole_p99)}".rstrip()


def _quantiles(what: str, median: float | None, most: float | None) -> str:
    if median is None:
        return ""
    within = f", 99 % within {precise(most)}" if most is not None else ""
    return f"{what} {precise(median)}{within}"


def _output(output: OutputState, now: float) -> str:
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
    return ", ".join(parts) + (_hint("relayd check") if output.up is False else "")


def _nodes(nodes: NodesState) -> str:
    if nodes.trouble is not None:
        return f"{printable(nodes.trouble)}{_hint('relayd check')}"
    if nodes.silent is None:
        return f"{nodes.known:,} in the nodes list; who has reported is {UNKNOWN}"
    heard = f"{nodes.known - nodes.silent:,} of {nodes.known:,} in the last"
    if nodes.observed_s < nodes.silent_after_s:
        return f"{heard} {age(nodes.observed_s)}, since when arrivals are known"
    after = age(nodes.silent_after_s)
    if not nodes.silent:
        return f"{heard} {after}"
    command = f"relayd nodes --silent {nodes.silent_after_s / 60:.0f}min"
    return f"{heard} {after}, {nodes.silent:,} silent{_hint(command)}"


def _failed(failed: FailedState) -> str:
    if not failed.files:
        return "0 files"
    most = list(failed.reasons.items())
    reasons = ", ".join(f"{files:,} {reason}" for reason, files in most[:3])
    more = ", …" if len(most) > 3 else ""
    text = f"{counted(failed.files, 'file')} ({size(failed.bytes)}): {reasons}{more}"
    return f"{text}{_hint('relayd failed list')}"


def _warned(overview: Overview) -> str:
    warned = overview.warned
    if warned is None:
        return f"{UNKNOWN} warnings"
    if not warned.count or not warned.last:
        return counted(warned.count, "warning")
    last = warned.last[-1]
    text = printable(f"{last.component}: {last.text}", _WARNING)
    return f"{counted(warned.count, 'warning')}, last {moment(last.at, overview.at)}: {text}"
