"""Run logs that sound tables accept: when they refuse these too, no run log is at fault.

They are inserted in a transaction that is rolled back.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from relayd.runlog.copytext import join
from relayd.runlog.model import COLUMNS, RunLog

#: The first report of any agent run, but for node and dates.
_START: Final = {
    "directiveid": "run",
    "ruleid": "rudder",
    "reportid": "0",
    "component": "start",
    "keyvalue": "None",
    "eventtype": "control",
    "policy": "Common",
    "msg": "start",
}


def known_good(
    accepted: tuple[str, ...] | None, node_id: str, at: datetime | None = None
) -> Iterator[RunLog]:
    """Yield run logs of one report, the one to be believed first.

    Args:
        accepted: the first report of a run log that was stored, None before there is one.
        node_id: node of the run log in question; its other columns are left out.
        at: their date, now if None.
    """
    if accepted is not None:
        yield _run_log(dict(zip(COLUMNS, accepted, strict=True)), at)
    yield _run_log({**_START, "nodeid": node_id}, at)


def _run_log(columns: dict[str, str], at: datetime | None) -> RunLog:
    date = (at or datetime.now(UTC)).isoformat(timespec="microseconds")
    columns |= {"executiondate": date, "executiontimestamp": date}
    first = tuple(columns[name] for name in COLUMNS)
    copy = join([column.encode() for column in first]) + b"\n"
    return RunLog(columns["nodeid"], date, None, True, 1, 1, copy, first)
