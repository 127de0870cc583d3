"""Values that take long to make."""

import trio
import trio.testing

from relayd.api.page.kept import Kept
from relayd.errors import RelaydError


async def test_kept_value_is_shown_while_the_next_is_made(autojump_clock: object) -> None:
    """Nobody waits for long, one is made at a time, and a very old one is not shown."""
    made: list[float] = []

    async def make() -> int:
        made.append(trio.current_time())
        await trio.sleep(5)
        if len(made) == 3:
            raise RelaydError("the disk is gone")
        return len(made)

    async with trio.open_nursery() as nursery:
        kept = Kept(make, nursery, fresh_s=30, wait_s=1)
        assert await kept.get() is None
        assert await kept.get() is None
        await trio.sleep(5)
        assert await kept.get() == 1
        assert len(made) == 1
        await trio.sleep(40)
        assert await kept.get() == 1  # old, and the next is being made
        await trio.sleep(10)
        assert await kept.get() == 2
        await trio.sleep(40)
        assert await kept.get() == 2
        await trio.sleep(70)  # the third has failed
        assert len(made) == 3
        await trio.sleep(30)
        assert await kept.get() is None  # too old by now
        await trio.sleep(10)
        assert await kept.get() == 4
