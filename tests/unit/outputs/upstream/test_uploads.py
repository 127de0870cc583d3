"""What an answer of the upstream means, and how it is addressed."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.outputs.upstream.uploads import DONE, LONGEST_WAIT_S, judge


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        pytest.param((400, 405, 409, 410, 411, 413, 414, 415, 422), "file"),
        pytest.param((401, 403, 404, 407), "operator"),
        pytest.param((300, 301, 302, 303, 304, 305, 307, 308, 399), "operator"),
        pytest.param((408, 425, 429, 500, 502, 503, 504, 507, 599), "transient"),
        pytest.param((202, 203, 206, 207, 226), "transient"),
    ],
)
def test_each_status_is_classed(statuses: tuple[int, ...], kind: str) -> None:
    """A refused file, a case for the operator and what passes by itself are told apart."""
    assert {judge(status).kind for status in statuses} == {kind}


@given(st.integers(100, 999).filter(lambda status: status not in DONE), st.text())
def test_any_answer_is_trouble_with_a_bounded_wait(status: int, retry_after: str) -> None:
    """Whatever is answered, its meaning is one line and its wait within bounds."""
    trouble = judge(status, retry_after)
    assert str(status) in trouble.detail
    assert 0 <= trouble.wait <= LONGEST_WAIT_S
    assert trouble.reached


@pytest.mark.fault("U4")
@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("999999999999", LONGEST_WAIT_S),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT_S),
        ("²", 0.0),
    ],
)
def test_retry_after_is_read_within_bounds(text: str, wait: float) -> None:
    """Seconds or a date, at most ten minutes; nonsense counts as nothing."""
    assert judge(503, text).wait == wait


@pytest.mark.fault("U4")
def test_retry_after_may_be_a_date() -> None:
    """A date a minute from now is a wait of about a minute."""
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert judge(429, format_datetime(soon, usegmt=True)).wait == pytest.approx(60, abs=3)
