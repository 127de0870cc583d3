"""Streams: reading an exact number of bytes, for framed protocols; telling the journal apart."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio.abc


async def read_exactly(stream: "trio.abc.ReceiveStream", size: int) -> bytearray | None:
    """Read exactly `size` bytes; return None when the stream ends first.

    Args:
        stream: the stream to read from; its errors are not caught.
        size: number of bytes.
    """
    data = bytearray()
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            return None
        data += part
    return data


def is_journal(fd: int) -> bool:
    """Return whether systemd connected a descriptor to the journal: $JOURNAL_STREAM.

    Lines may begin with their priority there, see systemd.exec(5) and sd-daemon(3).
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
