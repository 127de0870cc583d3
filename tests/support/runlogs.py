"""Run logs for tests: whole realistic ones, and single lines with everything to choose."""

from relayd.demo.runlogs import make_runlog

__all__ = ["NODE", "STAMP", "START", "STARTED", "joined", "make_runlog", "report"]

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
    """A run log of these lines, each of them ended."""
    return "".join(line + end for line in lines).encode()
