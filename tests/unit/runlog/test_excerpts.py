"""What the detail of a refused file shows of its content."""

import pytest

from relayd.errors import Refused
from relayd.runlog.parser import parse


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\x7fELF\x02\x01\x01\x00\x00\x03\x00>\x00", "data that is not text"),
        (bytes(range(128, 256)), "data that is not text"),
        ("accès refusé à /etc".encode("latin-1"), "acc\ufffds refus\ufffd \ufffd /etc"),
        (b"cannot open\tfile", "cannot open\\tfile"),
    ],
)
def test_only_text_is_shown(text: bytes, shown: str) -> None:
    """A line of a text is quoted, also if some characters are odd; anything else is not."""
    verdict = parse(text, "node1")
    assert isinstance(verdict, Refused)
    assert verdict.detail.endswith(shown)
