"""A server that does not even answer a new client is given up, long before a slow one would be."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

#: Asks whether the server would use TLS (PostgreSQL manual, 54.7, SSLRequest): a byte is answered
#: before anybody logs in, by poolers too.
_SSL_REQUEST: Final = struct.pack("!II", 8, 80_877_103)

#: Address of a server, as its socket gives it: host and port with more behind, or a path.
Place = str | tuple[Any, ...]


@asynccontextmanager
async def unless_silent(
    place: Place, deadline: asyncio.Timeout, quiet_s: float, note: Callable[[], None]
) -> AsyncIterator[None]:
    """Let a deadline pass at once when the server turns out to be frozen, or out of reach.

    Args:
        place: address of the server.
        deadline: of the work in the block.
        quiet_s: seconds after which the server is asked, and until it must have answered.
        note: called if it has not.
    """
    watch = asyncio.ensure_future(_watch(place, deadline, quiet_s, note))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(
    place: Place, deadline: asyncio.Timeout, quiet_s: float, note: Callable[[], None]
) -> None:
    while True:
        await asyncio.sleep(quiet_s)
        if not await _answers(place, quiet_s):
            note()
            deadline.reschedule(asyncio.get_running_loop().time())
            return


async def _answers(place: Place, quiet_s: float) -> bool:
    """Return whether the server answers a new client; any answer will do."""
    try:
        async with asyncio.timeout(quiet_s):
            if isinstance(place, str):
                reader, writer = await asyncio.open_unix_connection(place)
            else:
                reader, writer = await asyncio.open_connection(*place[:2])
            try:
                writer.write(_SSL_REQUEST)
                return bool(await reader.read(1))
            finally:
                writer.transport.abort()
    except OSError:  # also a timeout
        return False
