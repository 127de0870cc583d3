"""What one node may have in flight."""

import pytest

from relayd.runlog.filename import inventory_node
from relayd.spool.shares import LARGE, NODE_BYTES, PACKED, Shares
from tests.support.pipeline import name_of


def test_a_share_is_taken_and_given_back_once() -> None:
    """Each file counts once for its node, and the node is free again when it had its whole share.

    Files without a node have a share together.
    """
    shares = Shares(files=2, no_node=1)
    shares.waiting |= {"node1", ""}
    first, second, third = (name_of(number) for number in range(3))
    shares.take(first)
    assert shares.left("node1") == 1
    shares.take(second)
    shares.take("x.log")
    assert (shares.left("node1"), shares.left(""), shares.left("node2")) == (0, 0, 2)
    assert not shares.freed
    for _ in range(2):
        shares.give_back(first)
        shares.give_back(third)
    assert (shares.left("node1"), shares.freed) == (1, {"node1"})
    shares.give_back("x.log")
    shares.give_back(second)
    assert shares.freed == {"node1", ""}
    assert not shares._counts
    assert not shares._in_flight


def test_inventories_count_for_their_node() -> None:
    """An inventory and its signature belong to the same node."""
    node = "6f2b3c4d-0000-4000-8000-000000000001"
    shares = Shares(inventory_node, files=2)
    shares.take(f"host-{node}.ocs.gz")
    shares.take(f"host-{node}.ocs.sign")
    assert not shares.left(node)


@pytest.mark.parametrize(("archive", "growth"), [("", 1), (".gz", PACKED)])
def test_large_files_are_counted_by_their_bytes(archive: str, growth: int) -> None:
    """Sizes come from the listing, or are those of the node's last file; small ones are free."""
    shares = Shares(size=NODE_BYTES)
    shares.waiting.add("node1")
    names = [name_of(number) + archive for number in range(4)]
    half = NODE_BYTES // 2 // growth
    shares.note_listed({names[0]: half, names[1]: LARGE // growth - 1})
    for name in names[:2]:
        shares.take(name)
    assert shares.left("node1")
    shares.note_size(names[0], half)
    shares.take(names[2])
    assert (shares.left("node1"), shares.left("node2") > 0) == (0, True)
    shares.give_back(names[0])
    assert shares.freed == {"node1"}
    assert shares.left("node1")
    shares.note_size(names[2], 0)
    for name in names[:2]:
        shares.give_back(name)
    shares.take(names[3])
    shares.give_back(names[2])
    assert not shares._sizes
