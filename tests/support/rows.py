"""Parsed run logs made by hand, for the tests of what stands behind the parser."""

from collections.abc import Callable

from relayd.runlog.copytext import join, read_columns
from relayd.runlog.model import COLUMNS, RunLog

START = "2026-03-01T12:00:00+00:00"


def make_rows(
    node: str = "node1",
    start: str = START,
    rows: int = 4,
    *,
    complete: bool = True,
    message: str = "all is well",
    skip: frozenset[str] = frozenset(),
    edit: Callable[[int, dict[str, str]], None] = lambda _number, _columns: None,
) -> RunLog:
    """Return a run log of numbered reports: control/start first, then result_success and log_info.

    Args:
        node: node id.
        start: START of all reports.
        rows: number of reports.
        complete: whether the first one is control/start.
        message: of each report, its number is appended.
        skip: event types that are left out of `copy`.
        edit: changes the columns of a report before it is written.
    """
    kept = []
    first: tuple[str, ...] | None = None
    for number in range(rows):
        columns = _columns(node, start, number, complete=complete, message=message)
        edit(number, columns)
        values = tuple(columns[name] for name in COLUMNS)
        first = first or values
        if columns["eventtype"] not in skip:
            kept.append(copy_line(values))
    assert first is not None
    copy = b"".join(kept)
    return RunLog(node, start, "config-1", complete, rows, len(kept), copy, first)


def _columns(node: str, start: str, number: int, *, complete: bool, message: str) -> dict[str, str]:
    control = complete and number == 0
    kind = "control" if control else ("log_info" if number % 2 else "result_success")
    return {
        "executiondate": start,
        "nodeid": node,
        "directiveid": "run" if control else f"directive-{number}",
        "ruleid": "rudder" if control else f"rule-{number}",
        "reportid": "0",
        "component": "start" if control else f"component-{number}",
        "keyvalue": "config-1" if control else "None",
        "eventtype": kind,
        "msg": f"{message} {number}",
        "policy": "Common",
        "executiontimestamp": start,
    }


def copy_line(columns: tuple[str, ...]) -> bytes:
    """One row of COPY text, its columns in order, ended by a newline."""
    return join([column.encode() for column in columns]) + b"\n"


def messages(run_log: RunLog) -> list[str]:
    """Return the messages of the rows of a run log, in order."""
    return [read_columns(line)[8] for line in run_log.copy.splitlines()]
