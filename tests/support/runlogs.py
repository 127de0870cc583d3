"""Run logs for tests: whole realistic ones, and single lines with everything to choose."""

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.errors import Refused
from relayd.runlog.copytext import read_copy
from relayd.runlog.grammar import parse_slow
from relayd.runlog.model import Report, RunLog
from relayd.runlog.parser import parse

__all__ = [
    "NODE",
    "STAMP",
    "START",
    "STARTED",
    "joined",
    "make_runlog",
    "read",
    "refusal",
    "report",
    "rows",
]

NODE = "node1"
STAMP = "2026-03-01T12:00:05+00:00"
#: START as reports have it, and as rows do.
START = "2026-03-01 12:00:00+00:00"
STARTED = "2026-03-01T12:00:00+00:00"


def report(
    message: str = "all is well",
    *,
    stamp: str = STAMP,
    policy: str = "Common",
    event: str = "result_success",
    rule: str = "rule-1",
    directive: str = "directive-1",
    report_id: str = "0",
    component: str = "Package",
    key: str = "vim",
    start: str = START,
    node: str = NODE,
) -> str:
    """One report, stamped, without its line end."""
    fields = "@@".join((policy, event, rule, directive, report_id, component, key, start))
    return f"{stamp} R: @@{fields}##{node}@#{message}"


def joined(*lines: str, end: str = "\r\n") -> bytes:
    """Return a run log of these lines, each of them ended."""
    return "".join(line + end for line in lines).encode()


def read(text: bytes, node: str = NODE, skip: frozenset[str] = frozenset()) -> RunLog:
    """Return the run log that both ways of parsing must give."""
    result = parse(text, node, skip)
    assert result == parse_slow(text, node, skip)
    assert isinstance(result, RunLog), result
    return result


def refusal(text: bytes, node: str = NODE) -> Refused:
    """Return the refusal that both ways of parsing must give."""
    result = parse(text, node)
    assert result == parse_slow(text, node)
    assert isinstance(result, Refused), result
    return result


def rows(run_log: RunLog) -> list[Report]:
    """Return the rows of a run log."""
    found = list(read_copy(run_log.copy))
    assert run_log.rows == len(found)
    return found
