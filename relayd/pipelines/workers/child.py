"""A worker process: frames in on standard input, frames out on standard output.

A frame is a length of four bytes, big-endian, and a MessagePack document. The first frame is the
`Setup`, each one after it a list of `Job`. Each is answered by a list of `Examined`, the setup by
an empty one. The worker ends when its input does, and with its parent.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

import msgspec

from relayd.pipelines.workers.job import Examined, Job, Setup, examine

LENGTH_BYTES: Final = 4


def main() -> None:
    """Serve until the input ends. Its argument is the descriptor of the lifeline."""
    end_with_parent(int(sys.argv[1]))
    # The terminal and systemd signal the whole group; the parent decides when a worker ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not get between the frames
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sink)


def end_with_parent(lifeline: int) -> None:
    """Let the kernel end this process, when its parent ends (O_ASYNC, open(2)).

    A parent-death signal, prctl(2), would come with the end of the thread that started the
    process, and Trio starts processes in threads that come and go.

    Args:
        lifeline: read end of a pipe whose only write end the parent has; nothing is ever written.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.read(lifeline, 1)
        os._exit(0)  # the parent ended before this was set up


def serve(source: BinaryIO, sink: BinaryIO, work: Callable[..., list[Examined]] = examine) -> None:
    """Answer the frames of `source` on `sink` until it ends."""
    first = _read_frame(source)
    if first is None:
        return
    setup = msgspec.msgpack.decode(first, type=Setup)
    decoder = msgspec.msgpack.Decoder(list[Job])
    encoder = msgspec.msgpack.Encoder()
    buffer = bytearray()
    results: list[Examined] = []
    while True:
        encoder.encode_into(results, buffer, LENGTH_BYTES)
        buffer[:LENGTH_BYTES] = (len(buffer) - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "big")
        _write_all(sink, buffer)
        if len(buffer) > 16 * 2**20:
            buffer = bytearray()
        frame = _read_frame(source)
        if frame is None:
            return
        results = work(setup, decoder.decode(frame))


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
