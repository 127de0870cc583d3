"""The pages about nodes, refused files and one file."""

import shlex
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from relayd.api.page.html import Html, join, link, path_of, tag
from relayd.api.page.sections import node_link
from relayd.overview.collect import SILENT_AFTER_S
from relayd.overview.fleet import FilePlace, Refusals
from relayd.overview.node_words import inventory_words, node_hold_words, run_words
from relayd.overview.nodes import NodeRow, NodesChoice, NodesPage
from relayd.overview.one_node import CertificateFacts, FileFacts, NodeDetail
from relayd.overview.sentence import moment
from relayd.spool.failed.refusals import ADVICE
from relayd.system.amounts import UNKNOWN, age, counted, precise

#: Columns of the list of nodes, and those of numbers.
_NAMES: Final = ("Node", "Last run log", "Outcome", "Waiting", "Refused", "An hour", "Through")
_NUMBERS: Final = {"Waiting", "Refused", "An hour"}


def nodes_body(
    page: NodesPage, choice: NodesChoice, wanted: str, now: float, counted_files: bool
) -> Html:
    """Return the list of nodes.

    Args:
        page: the nodes.
        choice: which they are.
        wanted: part of their names or ids, "" for any.
        now: Unix time.
        counted_files: whether it is known how many files wait.
    """
    conditions = [
        f"without a run log for {age(choice.silent)}" if choice.silent is not None else "",
        "with refused files, or whose last run log was refused" if choice.failing else "",
        f"that report through {choice.relay}" if choice.relay else "",
        f"with {wanted} in the name or id" if wanted else "",
    ]
    which = " and".join(f" {condition}" for condition in conditions if condition)
    shown = f", the first {len(page.rows)} are shown" if page.total > len(page.rows) else ""
    rows = [_row(row, now, counted_files) for row in page.rows]
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", class_="n" if name in _NUMBERS else None)
            for name in _NAMES
        ),
    )
    note = "" if counted_files else tag("p", "Files that wait are being counted.", class_="todo")
    return join(
        _lists(choice),
        search(choice, wanted),
        tag("p", f"{page.total:,} of {counted(page.known, 'node')}{which}{shown}."),
        note,
        tag("div", tag("table", head, *rows, class_="folding", aria_label="Nodes"), class_="scroll")
        if rows
        else "",
    )


def search(choice: NodesChoice, wanted: str = "") -> Html:
    """Return the form that searches for nodes, among those that are listed already.

    Args:
        choice: which these are.
        wanted: what was searched for.
    """
    kept = (tag("input", type="hidden", name=name, value=value) for name, value in _query(choice))
    return tag(
        "form",
        tag(
            "div",
            tag("label", "Node, by a part of its name or id", for_="q"),
            tag("input", type="search", id="q", name="q", value=wanted or None),
        ),
        *kept,
        tag("button", "Search", type="submit"),
        action="nodes",
        method="get",
        role="search",
    )


def _query(choice: NodesChoice) -> list[tuple[str, str]]:
    """Return the parameters that lead to a choice."""
    given = {
        "silent": "" if choice.silent is None else f"{choice.silent:.0f}s",
        "failing": "yes" if choice.failing else "",
        "relay": choice.relay or "",
        "sort": "" if choice.sort == "silence" else choice.sort,
    }
    return [(name, value) for name, value in given.items() if value]


def _lists(choice: NodesChoice) -> Html:
    """Return links to the lists; that of this page is marked."""
    lists = {
        "All": NodesChoice(),
        f"Silent for {age(SILENT_AFTER_S)}": NodesChoice(silent=SILENT_AFTER_S),
        "Failing": NodesChoice(failing=True),
        "Most run logs": NodesChoice(sort="rate"),
        "Most waiting": NodesChoice(sort="waiting"),
    }
    links = [
        link(
            f"nodes?{urlencode(_query(one))}" if _query(one) else "nodes",
            name,
            aria_current="page" if _query(one) == _query(choice) else None,
        )
        for name, one in lists.items()
    ]
    return tag("nav", *links, class_="lists", aria_label="Lists of nodes")


def _row(row: NodeRow, now: float, counted_files: bool) -> Html:
    last = "never" if row.last_arrival is None else f"{age(now - row.last_arrival)} ago"
    outcome = row.reason or row.outcome or UNKNOWN
    floods = " (floods)" if "flooding" in row.troubles else ""
    values: tuple[object, ...] = (
        last,
        outcome,
        f"{row.waiting:,}" if counted_files else UNKNOWN,
        f"{row.failed:,}",
        f"{row.last_hour:,}{floods}",
        row.relay or UNKNOWN,
    )
    return tag(
        "tr",
        tag("th", node_link(row), scope="row"),
        *(
            tag("td", value, class_="n" if name in _NUMBERS else None, data_name=name)
            for name, value in zip(_NAMES[1:], values, strict=True)
        ),
    )


def node_body(detail: NodeDetail, now: float) -> Html:
    """Return all about one node."""
    row = detail.row
    way = [detail.server, *detail.way, row.hostname or row.node_id]
    facts: list[tuple[str, object]] = [
        ("id", row.node_id),
        ("way", detail.trouble or " \N{LEFTWARDS ARROW} ".join(way)),
        *(("certificate", _certificate(one, now)) for one in detail.certificates),
    ]
    if not detail.certificates:
        facts.append(("certificate", tag("span", "none", class_="trouble")))
    facts.append(("last run log", _last_run(detail, now)))
    if detail.database is not None:
        facts.append(("in database", f"last run started {moment(detail.database, now)}"))
    facts.append(("in the last hour", counted(row.last_hour, "run log")))
    if row.lag_s is not None:
        facts.append(("lag", f"done {precise(row.lag_s)} after the start of the run"))
    if detail.ahead_s is not None and detail.ahead_s > 0:
        facts.append(("clock", f"at least {precise(detail.ahead_s)} ahead"))
    if inventory := inventory_words(detail, now):
        facts.append(("inventory", inventory))
    facts.append(("waiting", _files(row.waiting, detail.waiting, now)))
    if hold := node_hold_words(detail, now):
        facts.append(("on hold", hold))
    facts.append(("refused", _files(row.failed, detail.failed[::-1], now)))
    listed = (join(tag("dt", label), tag("dd", value)) for label, value in facts)
    return join(
        tag("dl", *listed),
        _in_terminal("relayd node", row.hostname or row.node_id),
    )


def _in_terminal(command: str, name: str) -> Html:
    """Return what to type; the name is one that others may have chosen."""
    return tag("p", "In a terminal: ", tag("code", f"{command} {shlex.quote(name)}"))


def _certificate(certificate: CertificateFacts, now: float) -> str:
    ends = moment(certificate.ends, now)
    word = "expired" if now > certificate.ends else "valid until"
    return f"{certificate.key}, {word} {ends}"


def _last_run(detail: NodeDetail, now: float) -> str:
    row = detail.row
    parts = run_words(row, now)
    if detail.reports is not None:
        parts.append(counted(detail.reports, "report"))
    if detail.config_id is not None:
        parts.append(f"configuration {detail.config_id}")
    return ", ".join(parts) or "none yet"


def _files(number: int, files: Sequence[FileFacts], now: float) -> Html:
    if not number:
        return join("none")
    items = [tag("li", _file(file, now)) for file in files]
    return join(counted(number, "file"), tag("ul", *items))


def _file(file: FileFacts, now: float, *, reason: bool = True) -> Html:
    about = f", {file.reason}: {file.detail}" if file.reason else ""
    if not reason:
        about = f": {file.detail}" if file.detail else ""
    target = "../" + path_of("files", file.name)
    ago = f", {age(now - file.at)} ago" if file.at else ""
    return join(link(target, file.name), ago, about)


def refused_body(reason: str, found: Refusals, now: float) -> Html:
    """Return the refused files with one reason."""
    shown = f", the last {len(found.files)} are shown" if found.total > len(found.files) else ""
    items = [tag("li", _file(file, now, reason=False)) for file in found.files]
    return join(
        tag("p", f"{counted(found.total, 'file')}{shown}."),
        _advice(reason),
        _in_terminal("relayd failed show", reason) if items else "",
        tag("ul", *items) if items else "",
    )


def _advice(reason: str) -> Html:
    if reason not in ADVICE:
        return join("")
    return tag("p", f"{ADVICE[reason][0].upper()}{ADVICE[reason][1:]}.")


def file_body(file: FilePlace, now: float) -> Html:
    """Return where a file is."""
    states = {
        "waiting": "It waits in the spool",
        "held": "An operator has set it aside",
        "refused": "It was refused",
        "unknown": "It is not here: it is done, or has never arrived",
    }
    since = f", for {age(now - file.at)}" if file.at else ""
    node = ""
    if file.node_id:
        node = tag("p", "Node: ", link("../" + path_of("nodes", file.node_id), file.node_id))
    about = join("")
    if file.reason:
        reason = link("../" + path_of("failed", file.reason), file.reason)
        about = join(tag("p", reason, f": {file.detail}"), _advice(file.reason))
    commands = {
        "waiting": "relayd queue show",
        "held": "relayd queue release",
        "refused": "relayd failed show",
    }
    command = commands.get(file.state)
    hint = _in_terminal(command, file.name) if command else ""
    return join(tag("p", f"{states[file.state]}{since}."), about, node, hint)
