"""Reading an exact number of bytes, for framed protocols."""

import trio.abc


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytearray | None:
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
