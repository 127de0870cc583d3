"""What a form says, and what is passed on of it."""

from urllib.parse import parse_qs

import pytest

from relayd.remote_run.request import RequestError, Wanted, read_form, read_nodes, read_wanted


def test_nodes_are_kept_once_in_their_order() -> None:
    """Empty and repeated ids fall away."""
    assert read_nodes({"nodes": "b,a,,b,c"}) == ("b", "a", "c")


def test_a_form_is_decoded() -> None:
    """Percent-encoding and plus signs mean what they mean in forms, in UTF-8."""
    assert read_form(b"nodes=a%2Cb+c%C3%A9&x=") == {"nodes": "a,b cé", "x": ""}


@pytest.mark.fault("P12", "D.5.5")
def test_a_form_with_many_fields_is_refused() -> None:
    """A form of a hundred thousand fields is refused before it is taken apart."""
    with pytest.raises(RequestError, match="invalid form"):
        read_form(b"&".join(b"f%d=" % number for number in range(100_000)))


@pytest.mark.history(48, 53)
def test_what_is_passed_on_says_the_same() -> None:
    """A sub-relay reads from its form what we read from ours, with its share of the nodes."""
    fields = {"asynchronous": "true", "conditions": "c1,c2", "nodes": "a,é,b"}
    wanted = read_wanted(fields, read_nodes(fields))
    passed = read_form(wanted.form(("a", "é")))
    assert read_wanted(passed, read_nodes(passed)) == Wanted(
        ("a", "é"), ("c1", "c2"), asynchronous=True
    )
    assert "nodes" not in parse_qs(wanted.form(None).decode())
    assert "classes" not in read_form(Wanted(None).form(None))
