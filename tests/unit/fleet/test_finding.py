"""Finding the node that an operator means."""

import pytest

from relayd.fleet.finding import NoSuchNodeError, find_node

ALL = "relayd nodes lists all"
WORDS = "an id, a host name, or a part that no other node has"
FIRST = ", ".join(sorted(f"n{i}" for i in range(1200))[:20])
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
            f"n: 1,200 nodes fit: {FIRST} and 1,180 more; {ALL}",
        ),
        (
            "web-*",
            HOSTNAMES,
            f"web-*: patterns are not possible here; write {WORDS}",
        ),
        (
            "\x1b[2J",
            HOSTNAMES,
            f"\\x1b[2J: no node has this in its id or host name; {ALL}",
        ),
        ("", HOSTNAMES, f"(empty): no node has this in its id or host name; {ALL}"),
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
