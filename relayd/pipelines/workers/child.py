"""A worker process: it reads frames from standard input and answers on standard output.

A frame is a length of four bytes, big-endian, followed by a MessagePack document. The first frame
is the `Setup`, every other one a list of `Job`. Each is answered by a list of `Examined`, the setup
by an empty list. The worker ends at the end of its input, and with its parent.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO, Final

import msgspec

from relayd.pipelines.workers.job import Examined, Job, Setup, examine

LENGTH_BYTES: Final = 4


def main() -> None:
    """Serve until the input ends. The only argument is the descriptor of the lifeline."""
    end_with_parent(int(sys.argv[1]))
    # The terminal and systemd send signals to the whole group; only the parent ends workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # output of a library must not mix with the frames
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sink)


def end_with_parent(lifeline: int) -> None:
    """Make the kernel end this process when its parent ends (O_ASYNC, open(2)).

    A parent-death signal, prctl(2), would already be sent when the thread that started the process
    ends, and Trio starts processes in short-lived threads.

    Args:
        lifeline: read end of a pipe. Only the parent has its write end, and never writes.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.read(lifeline, 1)
        os._exit(0)  # the parent ended before O_ASYNC was set


def serve(
    source: BinaryIO,
    sink: BinaryIO,
    work: Callable[[Setup, Sequence[Job]], list[Examined]] = examine,
) -> None:
    """Answer the frames of `source` on `sink` until `source` ends."""
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
