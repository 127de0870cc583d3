"""A bound on long requests, in total and for each client."""

from contextlib import ExitStack

from relayd.api.fair_limiter import FairLimiter


def test_requests_are_bounded_in_total_and_for_each_client() -> None:
    """No request beyond either bound is admitted; a finished one makes way for another."""
    limiter = FairLimiter(3, 2)
    with ExitStack() as held:
        got = [held.enter_context(limiter.admit(name)) for name in ("a", "a", "a", "b", "b")]
        assert got == [True, True, False, True, False]
    for _ in range(5):
        with limiter.admit("a") as admitted:
            assert admitted
