"""Reading a known number of bytes, as protocols of frames need it."""

import trio.abc


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytearray | None:
    """Read so many bytes and no byte further; None when the stream ends before.

    Args:
        stream: what to read from; its errors pass through.
        size: bytes.
    """
    data = bytearray()
    while len(data) < size:
        part = await stream.receive_some(size - len(data))
        if not part:
            return None
        data += part
    return data
