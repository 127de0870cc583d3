"""A worker process: frames in on standard input, frames out on standard output.

A frame is a length of four bytes, big-endian, and a MessagePack document. The first frame is the
`Setup`, each one after it a list of `Job`; each of these is answered by a list of `Examined`. The
worker ends when its input does, or its output: its parent is gone then. (A parent-death signal
would come when the thread that started the worker ends, prctl(2).)
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

import msgspec

from relayd.examine.job import Examined, Job, Setup, examine

LENGTH_BYTES: Final = 4


def main() -> None:
    """Serves until the input ends."""
    # The terminal and systemd signal the whole group; the parent decides when a worker ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0))


def serve(source: BinaryIO, sink: BinaryIO, work: Callable[..., list[Examined]] = examine) -> None:
    """Answers the frames of `source` on `sink` until it ends."""
    first = _read_frame(source)
    if first is None:
        return
    setup = msgspec.msgpack.decode(first, type=Setup)
    decoder = msgspec.msgpack.Decoder(list[Job])
    encoder = msgspec.msgpack.Encoder()
    buffer = bytearray()
    while (frame := _read_frame(source)) is not None:
        results = work(setup, decoder.decode(frame))
        encoder.encode_into(results, buffer, LENGTH_BYTES)
        buffer[:LENGTH_BYTES] = (len(buffer) - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "big")
        _write_all(sink, buffer)
        if len(buffer) > 16 * 2**20:
            buffer = bytearray()


def _read_frame(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    body = source.read(size)
    return body if len(body) == size else None


def _write_all(sink: BinaryIO, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) :]


if __name__ == "__main__":
    main()
