"""When a clock is wrong."""

import time

import pytest

from relayd.commands.check.checks.clock import judge, judge_synchronised, judge_year, seconds_ahead


@pytest.mark.parametrize(
    ("year", "wrong"), [(1970, True), (2024, True), (2025, False), (2100, False), (2107, True)]
)
def test_years_that_cannot_be(year: int, wrong: bool) -> None:
    """A year before this release, or in the next century, is an error."""
    found = judge_year(year)
    assert (found is not None) == wrong


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (4.9, None),
        (-5.0, None),
        (6.4, "warning its clock is 6 s ahead of this one"),
        (-299.0, "warning its clock is 299 s behind this one"),
        (301.0, "error its clock is 301 s ahead of this one"),
    ],
)
def test_differences_are_judged_by_the_harm_they_do(ahead: float, told: str | None) -> None:
    """Seconds do no harm, some minutes may, more makes young files old."""
    found = [f"{finding.level} {finding.what}" for finding in judge("the database db", ahead)]
    assert found == ([told] if told else [])


@pytest.mark.parametrize(
    ("state", "code"), [(None, "clock.unknown"), (5, "clock.unsynchronised"), (0, None)]
)
def test_the_kernel_is_asked_where_nobody_else_can_be(state: int | None, code: str | None) -> None:
    """A clock that nothing keeps right is told, and a kernel that does not tell is no guess."""
    assert [finding.code for finding in judge_synchronised(state)] == ([code] if code else [])


def test_the_time_that_an_answer_takes_is_no_difference() -> None:
    """Whatever a clock says between question and answer is right."""
    now = time.time()
    assert seconds_ahead(now - 5, now - 10) == 0
    assert seconds_ahead(now - 20, now - 10) == -10
    assert 99 < seconds_ahead(now + 100, now - 10) <= 100
