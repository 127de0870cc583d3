"""When a spool directory is listed, and which files are taken."""

import pytest

from relayd.spool.watching.agenda import CATCHUP_AGE_S, MEASURE_S, POLL_S, Agenda, ListingOrder

EVERYTHING = ListingOrder(0.0)


def started(frequency: float = 10.0, *, periodic: bool = True) -> Agenda:
    """Return an agenda whose first listing was taken at time 0."""
    agenda = Agenda(frequency, periodic=periodic)
    assert agenda.take(0.0, ready=True, polling=False) == EVERYTHING
    return agenda


@pytest.mark.fault("N2")
@pytest.mark.parametrize("periodic", [True, False])
def test_start_lists_everything(*, periodic: bool) -> None:
    """The first listing takes files of any age, even with periodic listings switched off."""
    assert Agenda(10.0, periodic=periodic).take(0.0, ready=False, polling=False) == EVERYTHING


def test_periodic_listing_leaves_young_files_to_their_events() -> None:
    """A periodic listing is due after the frequency and takes only files older than 30 s."""
    agenda = started()
    assert agenda.take(9.9, ready=True, polling=False) is None
    assert agenda.take(10.0, ready=True, polling=False) == ListingOrder(CATCHUP_AGE_S)
    assert agenda.take(19.9, ready=True, polling=False) is None


def test_periodic_listing_waits_for_the_previous_one() -> None:
    """No other listing is taken while names of the last one are unsent."""
    agenda = started()
    assert agenda.take(60.0, ready=False, polling=False) is None


def test_without_periodic_listings_the_directory_is_only_measured() -> None:
    """With a limit of 0 no file is queued periodically, but the gauges stay up to date."""
    agenda = started(periodic=False)
    assert agenda.take(MEASURE_S - 1, ready=True, polling=False) is None
    assert agenda.take(MEASURE_S, ready=True, polling=False) == ListingOrder(0.0, measure=True)


def test_measuring_does_not_replace_a_listing() -> None:
    """Files that were left out are still listed after a measurement."""
    agenda = started(periodic=False)
    agenda.take(MEASURE_S, ready=True, polling=False)
    agenda.unfinished(0.0)
    assert agenda.take(MEASURE_S + 1, ready=True, polling=False) == EVERYTHING


def test_measuring_does_not_put_off_a_periodic_listing() -> None:
    """However often the directory is measured, files are queued after the frequency."""
    agenda = started()
    agenda.note_unknown(1, cost=0.1)
    measured = ListingOrder(0.0, measure=True)
    assert agenda.take(6.0, ready=True, polling=False) == measured
    assert agenda.take(10.0, ready=True, polling=False) == ListingOrder(CATCHUP_AGE_S)
    assert agenda.take(16.0, ready=True, polling=False) == measured
    assert agenda.take(20.0, ready=True, polling=False) == ListingOrder(CATCHUP_AGE_S)


@pytest.mark.parametrize("periodic", [True, False])
def test_unfinished_listing_is_continued_with_its_age(*, periodic: bool) -> None:
    """A full listing is followed by another one as soon as its names are sent."""
    agenda = started(3600.0, periodic=periodic)
    agenda.unfinished(CATCHUP_AGE_S)
    assert agenda.take(1.0, ready=False, polling=False) is None
    assert agenda.take(1.0, ready=True, polling=False) == ListingOrder(CATCHUP_AGE_S)
    assert agenda.take(2.0, ready=True, polling=False) is None


def test_least_age_left_out_wins() -> None:
    """If files of different ages were left out, the next listing takes all of them."""
    agenda = started(3600.0)
    agenda.unfinished(CATCHUP_AGE_S)
    agenda.unfinished(0.0)
    agenda.unfinished(CATCHUP_AGE_S)
    assert agenda.take(1.0, ready=True, polling=False) == EVERYTHING


def test_lost_events_are_followed_by_a_listing_at_once() -> None:
    """A requested listing is taken within a quarter of a second, even if names are unsent."""
    agenda = started(3600.0)
    agenda.everything()
    assert agenda.urgent_in(0.1) == pytest.approx(0.15)
    assert agenda.take(0.1, ready=False, polling=False) is None
    assert agenda.take(0.25, ready=False, polling=False) == EVERYTHING
    assert agenda.urgent_in(0.25) == float("inf")


def test_without_events_the_directory_is_polled() -> None:
    """Without inotify files of any age are listed, at least every ten seconds."""
    agenda = started(3600.0, periodic=False)
    assert agenda.take(POLL_S, ready=True, polling=True) == EVERYTHING
