"""Parsing of forms, and the form for sub-relays."""

from urllib.parse import parse_qs

import pytest

from relayd.remote_run.request import (
    RequestError,
    RunRequest,
    read_form,
    read_nodes,
    read_run_request,
)


def test_nodes_are_kept_once_in_their_order() -> None:
    """Empty and repeated ids are ignored."""
    assert read_nodes({"nodes": "b,a,,b,c"}) == ("b", "a", "c")


def test_a_form_is_decoded() -> None:
    """Percent-encoding and plus signs are decoded as in any form, as UTF-8."""
    assert read_form(b"nodes=a%2Cb+c%C3%A9&x=") == {"nodes": "a,b cé", "x": ""}


@pytest.mark.fault("F59")
@pytest.mark.parametrize(
    ("body", "conditions"),
    [
        (b"conditions=a&classes=b", ("a",)),
        (b"classes=b&conditions=a", ("a",)),
        (b"conditions=&classes=b", ()),
        (b"classes=b&classes=c", ("c",)),
        (b"conditions=a&conditions=&classes=b", ()),
        (b"conditions=-&x=1&conditions=a", ("a",)),
        (b"&".join(b"f%d=" % number for number in range(1000)) + b"&classes=c", ("c",)),
        (b"x=%ff&y=\xff&=&&conditions=a", ("a",)),
    ],
)
def test_the_last_value_counts(body: bytes, conditions: tuple[str, ...]) -> None:
    """What other clients may send means what it means to the original: the last value counts."""
    assert read_run_request(read_form(body), ("n1",)).conditions == conditions


@pytest.mark.fault("P12", "D.5.5")
def test_a_form_with_many_fields_is_refused() -> None:
    """A form of a hundred thousand fields is refused before it is parsed."""
    with pytest.raises(RequestError, match="invalid form"):
        read_form(b"&".join(b"f%d=" % number for number in range(100_000)))


@pytest.mark.history(48, 53)
def test_what_is_passed_on_says_the_same() -> None:
    """A sub-relay parses the same request from its form, with its share of the nodes."""
    fields = {"asynchronous": "true", "conditions": "c1,c2", "nodes": "a,é,b"}
    wanted = read_run_request(fields, read_nodes(fields))
    passed = read_form(wanted.form(("a", "é")))
    assert read_run_request(passed, read_nodes(passed)) == RunRequest(
        ("a", "é"), ("c1", "c2"), asynchronous=True
    )
    assert "nodes" not in parse_qs(wanted.form(None).decode())
    assert "classes" not in read_form(RunRequest(None).form(None))
