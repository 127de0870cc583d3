"""Keys from a terminal, one at a time, without waiting for the end of a line."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

Key = Literal["up", "down", "left", "right", "home", "end", "page_up", "page_down", "quit", "other"]

#: What terminals send for a key, with and without application mode.
_SEQUENCES: Final[dict[bytes, Key]] = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x1b[C": "right",
    b"\x1bOC": "right",
    b"\r": "right",
    b"\n": "right",
    b"l": "right",
    b"\x1b[D": "left",
    b"\x1bOD": "left",
    b"\x1b": "left",
    b"\x7f": "left",
    b"h": "left",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"\x1b[5~": "page_up",
    b"\x1b[6~": "page_down",
    b"q": "quit",
    b"Q": "quit",
    b"\x04": "quit",
}
_LONGEST: Final = 16


@contextmanager
def keys_of_terminal() -> Iterator[int]:
    """Read keys as they are pressed, without showing them; yields the descriptor to read from.

    Ctrl-C still interrupts. The terminal is as before after the block.
    """
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def read_keys(fd: int, timeout: float) -> list[Key]:
    """Return the keys that were pressed, after waiting for the first for some seconds."""
    ready, _, _ = select.select([fd], [], [], timeout)
    if not ready:
        return []
    data = os.read(fd, 256)
    return ["quit"] if not data else list(parse_keys(data))


def parse_keys(data: bytes) -> Iterator[Key]:
    """Yield the keys in what a terminal has sent; an unknown one is "other"."""
    while data:
        for length in range(min(_LONGEST, len(data)), 0, -1):
            key = _SEQUENCES.get(data[:length])
            if key is not None:
                yield key
                data = data[length:]
                break
        else:
            yield "other"
            data = b"" if data.startswith(b"\x1b") else data[1:]
