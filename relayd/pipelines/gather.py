"""The gather stage: files that arrive at about the same time share one transaction."""

from contextlib import suppress
from math import inf
from typing import Final, TypeVar

import trio

#: Files in one batch.
BATCH: Final = 128
#: How long a batch waits for further files while files arrive steadily: one transaction for all of
#: them costs a fraction of one for each. A file after a quiet second does not wait.
LINGER_S: Final = 0.25
QUIET_S: Final = 1.0

T = TypeVar("T")


async def run_gather(
    source: trio.MemoryReceiveChannel[T],
    batches: trio.MemorySendChannel[list[T]],
    *,
    nap_s: float = 0.0,
) -> None:
    """Make batches of at most `BATCH`; end with the source. Owns both channel ends.

    Args:
        source: what arrives.
        batches: the batches.
        nap_s: while a batch waits for more, look so often (seconds), instead of at each arrival;
            for a source with a buffer, whose senders are not held up by this.
    """
    with source, batches:
        busy_until = -inf
        async for first in source:
            batch = [first]
            now = trio.current_time()
            await _fill(batch, source, now + LINGER_S if now < busy_until else now, nap_s)
            await batches.send(batch)
            busy_until = trio.current_time() + QUIET_S


async def _fill(
    batch: list[T], source: trio.MemoryReceiveChannel[T], deadline: float, nap_s: float
) -> None:
    """Add what has arrived, and what arrives before the deadline, until the batch is full."""
    with trio.move_on_at(deadline), suppress(trio.EndOfChannel):
        while len(batch) < BATCH:
            try:
                batch.append(source.receive_nowait())
            except trio.WouldBlock:
                if nap_s:
                    await trio.sleep(nap_s)
                else:
                    batch.append(await source.receive())
