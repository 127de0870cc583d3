"""Finding the node that an operator means."""

import pytest

from relayd.fleet.finding import NoSuchNodeError, find_node

HOSTNAMES = {"1a-x": "web-1.test", "1b-x": "web-12.test", "2c-y": "db", "3d-z": "", "3e-z": "same"}


@pytest.mark.parametrize(
    ("part", "node"),
    [("1a-x", "1a-x"), ("1b", "1b-x"), ("web-12", "1b-x"), ("db", "2c-y"), ("3d", "3d-z")],
)
def test_a_unique_part_of_id_or_host_name_suffices(part: str, node: str) -> None:
    """A node may be called by anything that no other node has."""
    assert find_node(part, HOSTNAMES) == node


def test_a_whole_name_is_preferred_to_a_part_of_others() -> None:
    """`web-1` means the node of that name, with a domain or without, if others begin like it."""
    assert find_node("web-1", {"a": "web-12", "b": "web-1", "c": "web-1.test"}) == "b"
    assert find_node("web-1", {"a": "web-12.test", "b": "web-1.test", "c": "my-web-1.test"}) == "b"
    with pytest.raises(NoSuchNodeError, match=r"2 nodes fit: web-1\.one, web-1\.two"):
        find_node("web-1", {"a": "web-1.two", "b": "web-1.one", "c": "web-12.one"})
    assert find_node("a", {"a": "x", "ab": "a"}) == "a"


@pytest.mark.parametrize(
    ("part", "hostnames", "said"),
    [
        ("web", HOSTNAMES, "web: 2 nodes fit: web-1.test, web-12.test"),
        ("z", HOSTNAMES, "z: 2 nodes fit: 3d-z, same"),
        ("twin", {"a": "twin", "b": "twin"}, "twin: 2 nodes fit: a, b"),
        (
            "n",
            {f"n{i}": "" for i in range(1200)},
            "n: 1,200 nodes fit: n0, n1, n10, n100, n1000, n1001, n1002, n1003, n1004, n1005, n1006,"
            " n1007, n1008, n1009, n101, n1010, n1011, n1012, n1013, n1014 and 1,180 more; relayd"
            " nodes lists all",
        ),
        (
            "web-*",
            HOSTNAMES,
            "web-*: patterns are not possible here; write an id, a host name, or a part that no"
            " other node has",
        ),
        (
            "\x1b[2J",
            HOSTNAMES,
            "\\x1b[2J: no node has this in its id or host name; relayd nodes lists all",
        ),
        ("", HOSTNAMES, "(empty): no node has this in its id or host name; relayd nodes lists all"),
    ],
)
def test_what_is_not_one_node_is_an_error_with_candidates(
    part: str, hostnames: dict[str, str], said: str
) -> None:
    """The error names nodes that the operator may have meant, in one safe line."""
    with pytest.raises(NoSuchNodeError) as caught:
        find_node(part, hostnames)
    assert str(caught.value) == said
    with pytest.raises(NoSuchNodeError) as caught:
        find_node(part, hostnames, "--relay")
    assert str(caught.value) == f"--relay {said}"
