"""Summaries of many nodes."""

import pytest

from relayd.commands.check.checks.nodes import enumerate_some


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a"], "1 node: a"),
        (["a", "b", "c"], "3 nodes: a, b, c"),
        (["a", "b", "c", "d", "e"], "5 nodes: a, b, c and 2 more"),
    ],
)
def test_a_summary_names_the_first_few(names: list[str], text: str) -> None:
    """A summary of any number of nodes fits on one line."""
    assert enumerate_some(names, "node") == text
