"""Detection of jumps of the wall clock."""

import pytest

from relayd.system.clock import CAUTION_S, WallClock

DAY_S = 86_400.0


class Time:
    """Two clocks that are moved by the test."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 500.0

    def clock(self, retention: float = 7 * DAY_S) -> WallClock:
        """Return a `WallClock` that reads these two."""
        return WallClock(retention, wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def pass_by(self, seconds: float, *, jump: float = 0.0) -> None:
        """Let time pass, and set the wall clock forward by another `jump` seconds."""
        self.monotonic += seconds
        self.wall += seconds + jump


@pytest.mark.fault("T2", "T3")
@pytest.mark.parametrize("jump", [8 * DAY_S, -3600.0, 56 * 365 * DAY_S])
def test_jump_is_distrusted_for_a_day(jump: float) -> None:
    """After the clock was set, forward or back, ages are not trusted for a day of steady time."""
    time = Time()
    clock = time.clock()
    assert clock.is_trusted()
    time.pass_by(3600, jump=jump)
    assert not clock.is_trusted()
    assert clock.jump == pytest.approx(jump)
    time.pass_by(CAUTION_S - 1)
    assert not clock.is_trusted()
    time.pass_by(2)
    assert clock.is_trusted()


def test_slow_drift_is_no_jump() -> None:
    """A clock that is slewed stays trusted, however far it gets in the end."""
    time = Time()
    clock = time.clock()
    for _ in range(100):
        time.pass_by(3600, jump=200)
        assert clock.is_trusted()


def test_caution_is_no_longer_than_the_retention() -> None:
    """With a short retention the clock is trusted again when that has passed."""
    time = Time()
    clock = time.clock(retention=600)
    time.pass_by(1, jump=DAY_S)
    assert not clock.is_trusted()
    time.pass_by(601)
    assert clock.is_trusted()


def test_real_clocks_agree() -> None:
    """The clocks of this machine are trusted right after the start."""
    clock = WallClock(DAY_S)
    assert clock.is_trusted()
