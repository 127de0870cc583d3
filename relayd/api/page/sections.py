"""The sections of the first page, each by its id; a live page replaces those that have changed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from relayd.api.page.charts import chart
from relayd.api.page.html import Html, join, link, path_of, tag
from relayd.overview.model import OutputState, Overview
from relayd.overview.nodes import NodeRow
from relayd.overview.sentence import held_words, moment
from relayd.overview.summary import Summary
from relayd.spool.failed.refusals import ADVICE
from relayd.system.amounts import UNKNOWN, age, counted, precise, size
from relayd.system.printable import printable
from relayd.telemetry.rates import PERIOD_S, TOGETHER, Point

#: State → class of its color, and name.
_STATES: Final = {
    "keeping_up": ("", "Well"),
    "behind": ("warn", "Behind"),
    "waiting": ("bad", "Waiting"),
    "silent": ("bad", "Silent"),
    "paused": ("warn", "Paused"),
    "not_running": ("bad", "Not running"),
    "unknown": ("bad", "Unknown"),
}
MINUTE_S: Final = 60.0
#: Period of the charts → points of a minute.
_POINTS: Final = {"hour": MINUTE_S / PERIOD_S, "day": MINUTE_S / PERIOD_S / TOGETHER}
#: Characters of a line of the log.
_TEXT: Final = 200


def sections(
    overview: Overview, points: Sequence[Point], period: str, fleet: Summary | None
) -> Mapping[str, Html]:
    """Return the sections by their ids, in the order of the page.

    Args:
        overview: of now.
        points: of the charts, the oldest first.
        period: of the charts, "hour" or "day".
        fleet: None while the nodes are being counted.
    """
    return {
        "word": join(_STATES[overview.state][1]),
        "state": _state(overview),
        "figures": _figures(overview, points, period),
        "outputs": _outputs(overview),
        "failed": _failed(overview),
        "nodes": _nodes(overview, fleet),
        "relays": _relays(fleet),
        "warnings": _warnings(overview),
    }


def _state(overview: Overview) -> Html:
    color, name = _STATES[overview.state]
    advice = join(" ", tag("code", overview.advice)) if overview.advice else ""
    return tag(
        "div",
        tag("p", name, class_="badge"),
        tag("h1", overview.sentence),
        tag("p", "Next: ", advice, class_="todo") if overview.advice else "",
        class_=f"state {color}".strip(),
    )


def _figures(overview: Overview, points: Sequence[Point], period: str) -> Html:
    flow, backlog, lag = overview.flow, overview.backlog, overview.lag
    done = "Stored" if overview.role == "root" else "Forwarded"
    oldest = f"oldest {age(backlog.oldest_s or 0.0)}" if backlog.files else "nothing waits"
    drain = f", done in {precise(backlog.drained_in_s)}" if backlog.drained_in_s else ""
    here = lag.here if lag is not None else None
    most = lag.here_p99 if lag is not None else None
    within = "arrival to done" if most is None else f"99 % within {precise(most)}"
    rate = _POINTS[period]
    past = [
        _past("Run logs in", [point.arrived * rate for point in points], _rate, points),
        _past(done, [point.done * rate for point in points], _rate, points),
        _past("Waiting", [point.waiting for point in points], "{:,.0f}".format, points),
        _past("Lag", [point.lag_median for point in points], precise, points),
    ]
    return tag(
        "div",
        _figure("Run logs in", _rate(flow.arrived if flow else None), "a minute", past[0]),
        _figure(done, _rate(flow.done if flow else None), "a minute", past[1]),
        _figure("Waiting", f"{backlog.files:,}", oldest + drain, past[2]),
        _figure("Lag", UNKNOWN if here is None else precise(here), within, past[3]),
        class_="figures",
    )


def _rate(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _past(
    title: str, values: Sequence[float], shown: Callable[[float], str], points: Sequence[Point]
) -> Html:
    """Return the chart of a figure, and in words for how long and up to which value it goes."""
    known = [value for value in values if not math.isnan(value)]
    if len(values) < 2 or not known:
        return join("")
    during = age(points[-1].at - points[0].at)
    label = f"{title}, last {during}: from {shown(min(known))} to {shown(max(known))}"
    return join(
        chart(values, label),
        tag("p", f"{during}: up to {shown(max(known))}", class_="note"),
    )


def _figure(title: str, value: str, note: str, past: Html) -> Html:
    return tag(
        "div",
        tag("h2", title),
        tag("p", value, class_="value"),
        tag("p", note, class_="note"),
        past,
        class_="figure",
    )


def _card(name: str, title: str, *content: object) -> Html:
    return join(tag("h2", title, id=f"{name}-title"), *content)


def _table(name: str, *rows: object) -> Html:
    return tag("table", *rows, aria_labelledby=f"{name}-title")


def _outputs(overview: Overview) -> Html:
    rows = [_output(output, overview.at) for output in overview.outputs]
    extra = []
    if overview.held or overview.nodes_on_hold:
        held = join(f"{held_words(overview)}  ", tag("code", "relayd queue list --state held"))
        extra.append(join(tag("dt", "on hold"), tag("dd", held)))
    if overview.pause is not None:
        by = f"by {overview.pause.by} since {moment(overview.pause.since, overview.at)} "
        command = tag("code", "relayd resume")
        extra.append(join(tag("dt", "paused"), tag("dd", by, command)))
    return _card("outputs", "Output", tag("dl", *rows, *extra))


def _output(output: OutputState, now: float) -> Html:
    since = f" since {moment(output.since, now)}" if output.since is not None else ""
    if output.up is False:
        state = join(
            tag("span", f"not available{since}: {output.trouble or ''} ", class_="trouble"),
            tag("code", "relayd check"),
        )
    elif output.up is None:
        state = join("not used yet")
    else:
        last = f", last file {precise(now - output.last_done)} ago" if output.last_done else ""
        state = join(f"available{since}{last}")
    server = ", ".join(part for part in (output.server, output.role) if part)
    return join(tag("dt", output.name), tag("dd", f"{server}: " if server else "", state))


def _failed(overview: Overview) -> Html:
    failed = overview.failed
    if not failed.files:
        return _card("failed", "Refused files", tag("p", "None."))
    rows = [
        tag(
            "tr",
            tag(
                "th",
                link(path_of("failed", reason), reason),
                tag("div", ADVICE.get(reason, ""), class_="note"),
                scope="row",
            ),
            tag("td", f"{files:,}", class_="n"),
        )
        for reason, files in failed.reasons.items()
    ]
    head = tag("tr", tag("th", "Reason", scope="col"), tag("th", "Files", scope="col", class_="n"))
    total = f"{counted(failed.files, 'file')}, {size(failed.bytes)}. "
    command = tag("code", "relayd failed list")
    return _card("failed", "Refused files", _table("failed", head, *rows), tag("p", total, command))


def _nodes(overview: Overview, fleet: Summary | None) -> Html:
    nodes = overview.nodes
    if nodes.trouble is not None:
        command = tag("code", "relayd check")
        trouble = tag("span", nodes.trouble, class_="trouble")
        return _card("nodes", "Nodes", tag("p", trouble, " ", command))
    heard = counted(nodes.known, "node")
    if nodes.silent is not None:
        within = min(nodes.silent_after_s, nodes.observed_s)
        heard += f", {nodes.known - nodes.silent:,} heard of in the last {age(within)}"
    lists: list[object] = [tag("p", heard, ".")]
    if fleet is None:
        lists.append(tag("p", "They are being counted.", class_="todo"))
    else:
        if nodes.observed_s >= nodes.silent_after_s:
            minutes = f"{nodes.silent_after_s / MINUTE_S:.0f}min"
            silent = [(row, _last(row, overview.at)) for row in fleet.silent]
            lists.append(_some("Silent", silent, f"silent={minutes}"))
        failing = [(row, _failing(row)) for row in fleet.failing]
        lists.append(_some("Failing", failing, "failing=yes"))
        flooding = [
            (row, f"{counted(row.last_hour, 'run log')} in the last hour") for row in fleet.flooding
        ]
        lists.append(_some("Flooding", flooding, "sort=rate"))
    return _card("nodes", "Nodes", *lists)


#: Query of a list → the command that shows the same.
_COMMANDS: Final = {
    "failing=yes": "relayd nodes --failing",
    "sort=rate": "relayd nodes --sort rate",
}


def _some(title: str, rows: Sequence[tuple[NodeRow, str]], query: str) -> Html:
    if not rows:
        return join("")
    command = _COMMANDS.get(query, f"relayd nodes --{query.replace('=', ' ')}")
    items = [tag("li", node_link(row), f": {about}") for row, about in rows]
    head = tag("h3", link(f"nodes?{query}", title), " ", tag("code", command))
    return join(head, tag("ul", *items))


def node_link(row: NodeRow, base: str = "") -> Html:
    """Return a link to the page of a node; `base` is the relative path of the first page."""
    return link(base + path_of("nodes", row.node_id), row.hostname or row.node_id)


def _last(row: NodeRow, now: float) -> str:
    if row.last_arrival is None:
        return "no run log yet"
    return f"last run log {age(now - row.last_arrival)} ago"


def _failing(row: NodeRow) -> str:
    kept = counted(row.failed, "refused file")
    return f"{kept}, last {row.reason}" if row.failures and row.reason else kept


def _relays(fleet: Summary | None) -> Html:
    relays = () if fleet is None else fleet.relays
    if not relays:
        return _card("relays", "Relays", tag("p", "None below this server."))
    head = tag(
        "tr",
        tag("th", "Relay", scope="col"),
        *(tag("th", name, scope="col", class_="n") for name in ("Nodes", "Silent", "Lag")),
    )
    rows = [
        tag(
            "tr",
            tag("th", link(f"nodes?relay={path_of(relay.name)}", relay.name), scope="row"),
            tag("td", f"{relay.nodes:,}", class_="n"),
            tag("td", f"{relay.silent:,}", class_="n"),
            tag("td", UNKNOWN if relay.lag_s is None else precise(relay.lag_s), class_="n"),
        )
        for relay in relays
    ]
    return _card("relays", "Relays", _table("relays", head, *rows))


def _warnings(overview: Overview) -> Html:
    warned = overview.warned
    if warned is None or not warned.last:
        return _card("warnings", "Warnings", tag("p", "None since the start."))
    rows = [
        tag(
            "tr",
            tag("td", moment(line.at, overview.at), class_="t"),
            tag("td", printable(f"{line.component}: {line.text}", _TEXT)),
        )
        for line in reversed(warned.last)
    ]
    head = tag("tr", tag("th", "Time", scope="col"), tag("th", "Last of the log", scope="col"))
    title = f"{counted(warned.count, 'warning')} since the start"
    return _card("warnings", title, tag("div", _table("warnings", head, *rows), class_="scroll"))
