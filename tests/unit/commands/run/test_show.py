"""What `relayd run` shows of the events of a run."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from relayd.commands.run.backlog import Backlog
from relayd.commands.run.results import Results
from relayd.commands.run.show import Lines, event_as_json, summary_as_json, table

Event = dict[str, Any]


def taken(*events: Event) -> Results:
    """Results of a run with a server, a relay and these events, each a second after the other."""
    results = Results()
    names = (("root", "root.test"), ("r", "relay.test"), ("a", "web-1.test"), ("b", ""))
    heads = [{"event": "node", "node": node, "hostname": name} for node, name in names]
    for second, event in enumerate([*heads, *events]):
        results.take(event | {"at": float(second)})
    return results


def verdict(node: str, relay: str = "root", **more: object) -> Event:
    return {"event": "exit", "node": node, "relay": relay, "code": 0, **more}


def started(node: str) -> Event:
    return {"event": "started", "node": node, "relay": "root"}


def test_each_node_has_its_verdict_time_and_way() -> None:
    """The table has one line for each node, by name, and the last line counts those that are ok."""
    results = taken(
        started("a"),
        verdict("a", "r"),
        {"event": "unreachable", "node": "b", "relay": "root", "detail": "no route\x1b[2J"},
    )
    assert list(table(results)) == [
        "NODE        VERDICT      TIME   THROUGH",
        "web-1.test  ok           1.0 s  relay.test",
        "b           unreachable  \N{EN DASH}      no route\\x1b[2J",
        "1 of 2 ok",
    ]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (verdict("a", code=3), "failed (3)  \N{EN DASH}     direct"),
        (verdict("a", code=-9), "killed (signal 9)  \N{EN DASH}     direct"),
        (verdict("a", code=None, detail="given up"), "unknown  \N{EN DASH}     given up"),
        ({"event": "hop_error", "node": "a", "relay": "r", "detail": "refused"},
         "relay failed  \N{EN DASH}     relay.test: refused"),
        (started("a"), "unknown  \N{EN DASH}     no verdict: relayd stopped answering"),
    ],
)  # fmt: skip
def test_every_verdict_but_success_is_none(event: Event, shown: str) -> None:
    """Whatever is not exit code 0 is named, and not counted as ok."""
    *_, row, count = table(taken(event))
    assert (row, count) == (f"web-1.test  {shown}", "0 of 1 ok")


def test_a_large_run_lists_what_is_not_ok() -> None:
    """Of thousands of nodes only those that need attention have a line."""
    results = taken(*(verdict(f"n{number}") for number in range(3000)), verdict("a", code=1))
    lines = list(table(results))
    assert len(lines) == 3
    assert lines[-1] == "3,000 of 3,001 ok"


def test_output_of_agents_cannot_control_the_terminal() -> None:
    """Escapes are shown as text, names too; colors are left out, and tabs are spaces."""
    results = taken({"event": "node", "node": "evil", "hostname": "e\x1b[31m\nvil"})
    lines = Lines(results)
    text = "\x1b[32mok\x1b[0m\tx\x1b]0;title\x07\u202e"
    line = lines.of({"event": "output", "node": "evil", "relay": "root", "output": text})
    assert line == "e\\x1b[31m\\nvil │ ok      x\\x1b]0;title\\x07\\u202e"
    assert event_as_json({"event": "output", "output": "\x1b\x7f\u202e", "at": 1.0}) == (
        r'{"event":"output","output":"\u001b\u007f\u202e"}'
    )


def test_the_summary_of_json_has_exact_numbers() -> None:
    """The last line counts nodes and verdicts, and says whether the answer was complete."""
    results = taken(verdict("a"), verdict("b", code=1))
    assert json.loads(summary_as_json(results, 1.23456, complete=False)) == {
        "event": "summary",
        "nodes": 2,
        "ok": 1,
        "verdicts": {"failed": 1, "ok": 1},
        "seconds": 1.235,
        "complete": False,
    }


def test_a_slow_terminal_costs_bounded_memory_and_no_verdict() -> None:
    """Output beyond the limit is dropped and counted; every other event arrives, in order."""
    output = {"event": "output", "output": "x" * 1000}
    events = [started("a"), *(dict(output) for _ in range(50)), verdict("a"), dict(output)]
    backlog = Backlog(limit=15_000)
    backlog.fill(events)
    found = list(backlog)
    kinds = [event["event"] for event in found]
    assert kinds == ["started", *["output"] * 10, "dropped", "exit", "dropped"]
    assert [event["lines"] for event in found if event["event"] == "dropped"] == [40, 1]


def test_events_are_taken_while_they_arrive_and_errors_come_last() -> None:
    """The reader of events waits for them, and gets the error of the one that adds them."""
    first, second = threading.Event(), threading.Event()

    def events() -> Iterator[Event]:
        yield started("a")
        first.set()
        second.wait(30)
        yield verdict("a")
        raise ValueError("broke off")

    backlog = Backlog()
    thread = threading.Thread(target=backlog.fill, args=(events(),))
    thread.start()
    found = iter(backlog)
    assert next(found)["event"] == "started"
    assert first.wait(30)
    second.set()
    assert next(found)["event"] == "exit"
    with pytest.raises(ValueError, match="broke off"):
        next(found)
    thread.join()
