"""Places for long requests: so many, and so many of one claimant."""

from contextlib import ExitStack

from relayd.api.places import Places


def test_places_are_bounded_for_all_and_for_each() -> None:
    """Nobody gets a place beyond either bound, and one that is left can be taken again."""
    places = Places(3, 2)
    with ExitStack() as held:
        got = [held.enter_context(places.taken(name)) for name in ("a", "a", "a", "b", "b")]
        assert got == [True, True, False, True, False]
    for _ in range(5):
        with places.taken("a") as taken:
            assert taken
