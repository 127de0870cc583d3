"""Keys of a terminal."""

import os

import pytest

from relayd.commands.top.keys import parse_keys, read_keys


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"\x1b[A\x1b[B\x1bOC\x1b[D", ["up", "down", "right", "left"]),
        (b"jk\rq", ["down", "up", "right", "quit"]),
        (b"\x1b", ["left"]),
        (b"\x1b[5~\x1b[6~", ["page_up", "page_down"]),
        (b"x\xff", ["other", "other"]),
        (b"", []),
    ],
)
def test_keys_of_what_terminals_send(data: bytes, keys: list[str]) -> None:
    """Sequences are one key each, in both modes of a terminal."""
    assert list(parse_keys(data)) == keys


@pytest.mark.parametrize("data", [bytes([27, 91]) + bytes(range(256)), b"\x1b[<0;1;1M" * 20])
def test_anything_is_some_keys(data: bytes) -> None:
    """No input is an error, and none goes on for ever."""
    assert len(list(parse_keys(data))) <= len(data)


def test_closed_terminal_ends_it() -> None:
    """A terminal that has gone away quits."""
    source, sink = os.pipe()
    assert read_keys(source, 0.0) == []
    os.close(sink)
    assert read_keys(source, 1.0) == ["quit"]
    os.close(source)
