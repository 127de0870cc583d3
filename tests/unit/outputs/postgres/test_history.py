"""Where in its history a database is."""

from relayd.outputs.postgres.history import History


def test_a_server_that_goes_on_keeps_its_history() -> None:
    """Growing positions of one server belong together, also after others."""
    history = History()
    first = history.note(1, 100)
    assert history.note(1, 100) == first
    assert history.note(1, 200).history == first.history
    assert history.note(2, 50).history != first.history
    assert history.note(1, 300).history == first.history
    assert history.at == history.note(1, 300)


def test_a_server_that_was_set_back_begins_another_history() -> None:
    """A smaller position means that something is gone, until the next time that it happens."""
    history = History()
    first = history.note(-1, 100).history
    second = history.note(-1, 99).history
    third = history.note(-1, 98).history
    assert len({first, second, third}) == 3
    assert history.note(-1, 500).history == third
