"""Findings about clocks."""

import time

import pytest

from relayd.commands.check.checks.clock import judge, judge_synchronised, judge_year, seconds_ahead


@pytest.mark.parametrize(
    ("year", "wrong"), [(1970, True), (2024, True), (2025, False), (2100, False), (2107, True)]
)
def test_impossible_years(year: int, wrong: bool) -> None:
    """A year before this release or after 2100 is an error."""
    found = judge_year(year)
    assert (found is not None) == wrong


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (4.9, None),
        (-5.0, None),
        (6.4, "warning its clock is 6 s ahead of this one"),
        (-299.0, "warning its clock is 299 s behind this one"),
        (301.0, "error its clock is 301 s ahead of this one"),
    ],
)
def test_differences_are_judged_by_the_harm_they_do(ahead: float, expected: str | None) -> None:
    """Seconds are harmless, more is a warning, and more than five minutes an error."""
    found = [f"{finding.level} {finding.what}" for finding in judge("the database db", ahead)]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("state", "code"), [(None, "clock.unknown"), (5, "clock.unsynchronised"), (0, None)]
)
def test_the_kernel_is_asked_where_no_other_clock_is_known(
    state: int | None, code: str | None
) -> None:
    """An unsynchronized clock is a warning; an unknown state is skipped."""
    assert [finding.code for finding in judge_synchronised(state)] == ([code] if code else [])


def test_the_duration_of_the_answer_is_not_a_difference() -> None:
    """Any time between question and answer is no difference."""
    now = time.time()
    assert seconds_ahead(now - 5, now - 10) == 0
    assert seconds_ahead(now - 20, now - 10) == -10
    assert 99 < seconds_ahead(now + 100, now - 10) <= 100
