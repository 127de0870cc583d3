"""What there is to say of one node, in words: for the terminal and for the page."""

from typing import Final

from relayd.overview.nodes import NodeRow
from relayd.overview.one_node import NodeDetail
from relayd.overview.sentence import hold_words, moment
from relayd.system.printable import printable

OUTCOMES: Final = {
    "stored": "stored",
    "forwarded": "forwarded",
    "refused": "refused",
    "postponed": "waits for another attempt",
}
#: An arrival is noted when its event is read, which may be after the file has been forwarded.
LATE_S: Final = 1.0


def run_words(row: NodeRow, now: float) -> list[str]:
    """Return what became of the last run log, and when; "" if none is known.

    An arrival after that is one of the next run log.
    """
    parts = []
    if row.last_run is not None:
        parts.append(f"started {moment(row.last_run, now)}")
    at = row.outcome_at
    outcome = ""
    if row.outcome is not None and at is not None:
        reason = f" ({row.reason})" if row.reason is not None else ""
        outcome = f"{OUTCOMES[row.outcome]}{reason} {moment(at, now)}"
    if row.last_arrival is None:
        return [*parts, *filter(None, [outcome])]
    arrived = f"arrived {moment(row.last_arrival, now)}"
    if outcome and at is not None and row.last_arrival > at + LATE_S:
        return [*parts, outcome, f"the next {arrived}"]
    return [*parts, arrived, *filter(None, [outcome])]


def inventory_words(detail: NodeDetail, now: float) -> str:
    """Return what became of the last inventory, and when; "" if none is known."""
    if detail.inventory is None or detail.inventory_at is None:
        return ""
    return f"{OUTCOMES[detail.inventory]} {moment(detail.inventory_at, now)}"


def node_hold_words(detail: NodeDetail, now: float) -> str:
    """Return what operators have put on hold of a node; "" if nothing."""
    if detail.on_hold_since is None:
        return hold_words(detail.held, "") if detail.held else ""
    by = f" by {printable(detail.on_hold_by)}" if detail.on_hold_by else ""
    since = moment(detail.on_hold_since, now)
    return hold_words(detail.held, f"all that arrives, since {since}{by}")
