"""The lag of run logs, and the rates of the recent past."""

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relayd.telemetry.lag import ABSURD_S, Lag
from relayd.telemetry.rates import DAY, HOUR, PERIOD_S, Rates, Totals

NOW = 1_800_000_000.0


def shown(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    }


def test_each_hop_has_its_time() -> None:
    """From the start of the run to the output: each hop, and the two sums."""
    registry = CollectorRegistry()
    assert Lag(registry).observe(NOW - 30, NOW - 10, NOW - 4, NOW - 3) == 27
    page = shown(registry)
    sums = {
        hop: page[f'rudder_relayd_lag_seconds_sum{{hop="{hop}"}}']
        for hop in ("node", "spool", "output", "here", "total")
    }
    assert sums == {"node": 20, "spool": 6, "output": 1, "here": 7, "total": 27}
    assert page['rudder_relayd_lag_seconds_bucket{hop="here",le="5"}'] == 0
    assert page['rudder_relayd_lag_seconds_bucket{hop="here",le="10"}'] == 1
    assert page['rudder_relayd_lag_seconds_bucket{hop="here",le="+Inf"}'] == 1


@pytest.mark.parametrize(
    ("start", "arrived", "hop"),
    [
        (NOW + 5, NOW - 10, "node"),
        (NOW - ABSURD_S - 60, NOW - 10, "node"),
        (NOW - 30, NOW + 60, "spool"),
        (None, NOW - ABSURD_S - 60, "spool"),
    ],
)
def test_wrong_clocks_are_counted_apart(start: float | None, arrived: float, hop: str) -> None:
    """A node or a file with an impossible time is in no sum of the hop that it spoils."""
    registry = CollectorRegistry()
    Lag(registry).observe(start, arrived, NOW - 4, NOW - 3)
    page = shown(registry)
    assert page[f'rudder_relayd_lag_implausible_total{{hop="{hop}"}}'] == 1
    assert page[f'rudder_relayd_lag_seconds_count{{hop="{hop}"}}'] == 0
    assert page['rudder_relayd_lag_seconds_count{hop="output"}'] == 1


def test_quantiles_are_those_of_the_recent_samples() -> None:
    """A slow hour ago does not show in the last minutes; without a run log there is no quantile."""
    lag = Lag()
    for _ in range(100):
        lag.observe(None, NOW - 900, NOW - 1, NOW)
    assert 800 <= lag.quantile("here", 0.5) <= 1000
    for _ in range(30):
        lag.sample()
    assert math.isnan(lag.quantile("here", 0.99))
    for seconds in [0.9] * 98 + [40.0] * 2:
        lag.observe(None, NOW - seconds, NOW - seconds, NOW)
    assert 0.8 <= lag.quantile("here", 0.5) <= 1.0
    assert 32 <= lag.quantile("here", 0.99) <= 50


class Past:
    """Rates with a clock and a backlog that are set by hand."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.now = NOW
        self.waiting = 0
        self.flowing_since = -math.inf
        self.rates = Rates(
            self.totals,
            lambda: self.waiting,
            lambda *_: 0.5,
            lambda: self.now,
            lambda: self.flowing_since,
        )

    def pass_by(self, samples: int, *, arrived: int = 0, done: int = 0, refused: int = 0) -> None:
        """Take samples, with so many run logs in each period."""
        for _ in range(samples):
            self.now += PERIOD_S
            self.totals.arrived += arrived
            self.totals.done += done
            self.totals.refused += refused
            self.waiting += arrived - done - refused
            self.rates.sample()


def test_a_backlog_that_shrinks_has_an_end() -> None:
    """Rate, time to drain and trend follow from the last minutes."""
    past = Past()
    past.waiting = 12_000
    past.pass_by(12, arrived=30, done=199, refused=1)
    assert past.rates.drain_rate() == 20
    assert past.waiting == 9960
    assert past.rates.drain_s() == 498
    assert past.rates.trend() == "shrinking"
    assert past.rates.per_minute("arrived") == 180
    past.pass_by(30, arrived=30)
    assert past.rates.trend() == "growing"
    assert past.rates.drain_s() == math.inf
    past.waiting = 0
    assert past.rates.drain_s() == 0


def test_what_is_worked_off_after_a_pause_does_not_grow() -> None:
    """Files that arrived within minutes and become less are no growing backlog."""
    past = Past()
    past.pass_by(20, arrived=400)
    assert past.rates.trend() == "growing"
    past.pass_by(3, arrived=3, done=300)
    assert past.waiting == 7109
    assert past.rates.trend() == "shrinking"


def test_what_left_before_an_outage_does_not_say_when_the_rest_will() -> None:
    """The time to drain knows nothing in an outage, and afterwards only what left since then."""
    past = Past()
    past.waiting = 12_000
    past.pass_by(12, arrived=30, done=200)
    assert past.rates.drain_s() == past.waiting / 20
    past.flowing_since = math.inf
    assert past.rates.drain_s() == math.inf
    past.pass_by(1, arrived=30, refused=10)  # which needs no output
    assert past.rates.drain_s() == math.inf
    past.flowing_since = past.now + 1
    past.pass_by(1, arrived=30, done=400)  # a part of this period was in the outage
    assert past.rates.drain_s() == math.inf
    past.pass_by(1, arrived=30, done=100)
    assert past.rates.flow_rate() == 10
    assert past.rates.drain_s() == past.waiting / 10
    past.waiting = 0
    assert past.rates.drain_s() == 0


def test_a_few_files_more_or_less_are_no_trend() -> None:
    """A burst of some files does not make a backlog grow."""
    past = Past()
    past.pass_by(3)
    past.pass_by(3, arrived=3)
    assert past.rates.trend() == "steady"


def test_what_is_usual_does_not_fade_in_a_silence() -> None:
    """After an hour the usual rate is known, and a silence is measured against it."""
    past = Past()
    past.pass_by(300, arrived=30, done=30)
    assert past.rates.usual() is None
    past.pass_by(60, arrived=30, done=30)
    past.pass_by(66)
    assert past.rates.usual() == 180
    assert past.rates.silent_s() == 660


def test_the_past_is_bounded() -> None:
    """An hour of 10 s and a day of 5 min are kept, the oldest first."""
    past = Past()
    past.pass_by(30 * DAY + 60, arrived=2, done=2)
    hour, day = past.rates.hour(), past.rates.day()
    assert (len(hour), len(day)) == (HOUR, DAY)
    assert [point.at for point in hour] == [past.now - 10 * n for n in reversed(range(HOUR))]
    assert [point.at for point in day] == [past.now - 300 * n for n in reversed(range(DAY))]
    assert {point.arrived for point in day} == {60}
    assert day[-1].lag_p99 == 0.5
