"""Lanes that work at once, and pass on what concerns one node in order."""

import pytest
import trio
from trio.testing import MockClock

from relayd.pipelines.order import NodeOrder


@pytest.mark.fault("F18")
async def test_batches_with_a_common_node_leave_in_order(autojump_clock: MockClock) -> None:
    """A slow batch holds up later ones with one of its nodes, and no others."""
    order = NodeOrder()
    left: list[str] = []

    async def lane(
        name: str, nodes: set[str], seconds: float, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with order.place(nodes) as before:
            task_status.started()
            await trio.sleep(seconds)
            for event in before:
                await event.wait()
            left.append(name)

    async with trio.open_nursery() as nursery:
        for name, nodes, seconds in (
            ("slow", {"a", "b"}, 5.0),
            ("other", {"c"}, 2.0),
            ("same", {"b", "c"}, 1.0),
            ("behind it", {"c"}, 0.0),
        ):
            await nursery.start(lane, name, nodes, seconds)
    assert left == ["other", "slow", "same", "behind it"]
    assert not order._last
