"""The contents of the database, run by run."""

from collections import Counter
from collections.abc import Callable, Iterable

from tests.support.daemon import START

#: A node id and the number of its run, which `Site.run_log` makes minutes after `START`.
Run = tuple[str, int]
Query = Callable[[str], list[tuple[str, ...]]]

_MINUTES = "(extract(epoch FROM {column} - timestamptz '{start}') / 60)::int"


def stored_rows(query: Query) -> Counter[Run]:
    """Return the number of reports of each run in the database."""
    return _count(query, "ruddersysevents", "executiontimestamp")


def stored_executions(query: Query) -> Counter[Run]:
    """Return the number of execution rows of each run."""
    return _count(query, "reportsexecution", "date")


def check_stored(query: Query, runs: Iterable[Run], *, reports: int = 6) -> None:
    """Assert that exactly these complete runs are stored, each once and whole."""
    runs = set(runs)
    assert stored_rows(query) == dict.fromkeys(runs, reports)
    assert stored_executions(query) == dict.fromkeys(runs, 1)


def _count(query: Query, table: str, column: str) -> Counter[Run]:
    minutes = _MINUTES.format(column=column, start=START.isoformat())
    rows = query(f"SELECT nodeid, {minutes}, count(*) FROM {table} GROUP BY 1, 2")
    return Counter({(node, int(number)): int(count) for node, number, count in rows})
