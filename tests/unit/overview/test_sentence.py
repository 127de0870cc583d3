"""The state in one sentence."""

import time
from datetime import datetime
from typing import Any

import pytest

from relayd.commands.status.screen import WIDTH, status_lines
from relayd.overview.documents import as_document
from relayd.overview.model import (
    Backlog,
    Flow,
    Lag,
    NodesState,
    OutputState,
    Overview,
    Pause,
)
from relayd.overview.sentence import judge, judged, moment

NOW = datetime(2026, 11, 28, 9, 45, 0).timestamp()  # noqa: DTZ001 - sentences have local times
DOWN = OutputState(
    name="database",
    server="db1:5432",
    up=False,
    since=NOW - 297,
    trouble="db1:5432: Connection refused",
)


def overview(**parts: Any) -> Overview:
    """Return the overview of a root server that has nothing to do."""
    base: dict[str, Any] = {
        "at": NOW,
        "version": "1.0",
        "role": "root",
        "node_id": "root",
        "kinds": ("reporting",),
        "flow": Flow(arrived=171.0, usual=171.0, last_arrival=NOW - 1),
        "lag": Lag(here=0.8, here_p99=1.9),
    }
    return Overview(**base | parts)


@pytest.mark.parametrize(
    ("parts", "state", "sentence"),
    [
        ({}, "keeping_up", "Keeping up: run logs are stored 0.8 s after they arrive."),
        (
            {"role": "relay", "lag": Lag()},
            "keeping_up",
            "Keeping up: no run log has been forwarded yet.",
        ),
        ({"kinds": ("inventories",)}, "keeping_up", "Keeping up: nothing waits."),
        (
            {"backlog": Backlog(files=12_431, oldest_s=360.0, drained_per_s=1720, drained_in_s=7)},
            "behind",
            "Behind: 12,431 run logs wait, the oldest for 6 min; at 1,720/s done in 7.0 s.",
        ),
        (
            {"backlog": Backlog(files=5_000, oldest_s=75.0, drained_per_s=3.0, grows=True)},
            "behind",
            "Behind: 5,000 run logs wait, the oldest for 1 min, and there are more and more.",
        ),
        ({"backlog": Backlog(files=100, oldest_s=2.0)}, "keeping_up", None),
        (
            {"outputs": (DOWN,), "backlog": Backlog(files=12_431, oldest_s=297.0)},
            "waiting",
            (
                "Waiting for the database since 09:40:03 (db1:5432: Connection refused): "
                "12,431 run logs wait, none is lost."
            ),
        ),
        (
            {"nodes": NodesState(trouble="nodes list x does not exist"), "outputs": (DOWN,)},
            "waiting",
            "Waiting for the nodes list (nodes list x does not exist): nothing waits.",
        ),
        (
            {"flow": Flow(usual=171.0, last_arrival=NOW - 660)},
            "silent",
            (
                "No run log has arrived for 11 min (usually 171 a minute): "
                "look at the web server in front."
            ),
        ),
        # One node reports every five minutes: half an hour is not silence.
        ({"flow": Flow(usual=0.2, last_arrival=NOW - 1800)}, "keeping_up", None),
        ({"flow": Flow(usual=None, last_arrival=NOW - 9999)}, "keeping_up", None),
        (
            {
                "pause": Pause(kinds=("reporting",), by="root", since=NOW - 900, until=NOW + 900),
                "backlog": Backlog(files=4_120, oldest_s=900.0),
                "outputs": (DOWN,),
            },
            "paused",
            "Paused by root since 09:30:00, until 10:00:00: 4,120 run logs wait.",
        ),
        (
            {
                "kinds": ("reporting", "inventories"),
                "pause": Pause(kinds=("inventories",), by="ann", since=NOW - 86_400),
                "backlog": Backlog(files=1, oldest_s=900.0),
            },
            "paused",
            "Processing of inventories paused by ann since 2026-11-27 09:45: 1 file waits.",
        ),
        # What is paused would not be processed anyway.
        (
            {"pause": Pause(kinds=("inventories",), by="ann", since=NOW - 60)},
            "keeping_up",
            "Keeping up: run logs are stored 0.8 s after they arrive.",
        ),
    ],
)
def test_state_has_its_sentence(parts: dict[str, Any], state: str, sentence: str | None) -> None:
    """The first of what needs somebody decides, and says since when and how much waits."""
    verdict = judge(overview(**parts))
    assert verdict.state == state
    if sentence is not None:
        assert verdict.sentence == sentence
    assert bool(verdict.advice) == (state != "keeping_up")


@pytest.mark.parametrize(
    ("parts", "end"),
    [
        ({"outputs": (DOWN,)}, "waits for the database"),
        ({"nodes": NodesState(trouble="nodes list x does not exist")}, "waits for the nodes list"),
        ({"pause": Pause(kinds=("reporting",), by="root", since=NOW)}, "time to drain \N{EN DASH}"),
        ({}, "time to drain 4 min"),
    ],
)
def test_files_that_wait_for_something_have_no_time_to_drain(
    parts: dict[str, Any], end: str
) -> None:
    """How fast files went before an outage is given nowhere while it lasts."""
    backlog = Backlog(files=12_431, oldest_s=297.0, drained_per_s=52.0, drained_in_s=240.0)
    found = judged(overview(**parts, backlog=backlog))
    lines = list(status_lines(found))
    [row] = [line for line in lines if line.startswith("waiting")]
    assert row.endswith(end)
    assert len(row) <= WIDTH
    known = not parts
    assert (found.backlog.drained_in_s is not None) == known
    assert (found.backlog.drained_per_s is not None) == known
    assert ("52/s" in found.sentence) == known


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12"])
@pytest.mark.parametrize(("at", "year"), [(-62_135_683_140.0, "0001"), (1e308, "9999")])
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest_one(
    at: float, year: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run log is named by its agent, and a pause is as long as somebody likes."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert moment(at, NOW).lstrip("0").startswith(f"{int(year)}-")
    finally:
        monkeypatch.undo()
        time.tzset()
    document = as_document(Pause(kinds=("reporting",), by="root", since=at, until=at))
    assert document["since"].startswith(f"{year}-")
    assert document["until"].startswith(f"{year}-")


def test_both_lags_share_a_line_that_is_wide_enough() -> None:
    """Otherwise the one from the start of the run is in the next line, which has no label."""
    lag = Lag(here=0.8, here_p99=1.9, whole=61.0, whole_p99=8_000.0)
    narrow = list(status_lines(overview(lag=lag)))
    row = next(number for number, line in enumerate(narrow) if line.startswith("lag "))
    here, whole = narrow[row : row + 2]
    assert "from run start" not in here
    assert whole.startswith(" " * 13 + "from run start")
    assert len(whole) <= WIDTH
    wide = [line for line in status_lines(overview(lag=lag), 200) if line.startswith("lag ")]
    assert wide == [f"{here:<45}{whole.strip()}"]
