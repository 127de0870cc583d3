import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.runlog.signature import der
from relayd.runlog.signature.der import OCTET_STRING, SEQUENCE, DerError


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_encoded_content_is_read_back(size: int) -> None:
    """An element of any length is found in any surroundings."""
    element = der.encode(OCTET_STRING, b"x" * size)

    start, stop = der.content(b"before" + element + b"after", 6, OCTET_STRING, 6 + len(element))

    assert (stop - start, stop) == (size, 6 + len(element))


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        pytest.param(b"", "ends before", id="empty"),
        pytest.param(b"\x30", "ends before", id="tag only"),
        pytest.param(b"\x31\x00", "0x31 instead of 0x30", id="other tag"),
        pytest.param(b"\x30\x03ab", "exceeds its container", id="truncated"),
        pytest.param(b"\x30\x81", "longer than needed", id="truncated length"),
        pytest.param(b"\x30\x80\x00\x00", "indefinite", id="indefinite length"),
        pytest.param(b"\x30\x81\x02ab", "longer than needed", id="long form of a short length"),
        pytest.param(b"\x30\x82\x00\x80" + b"x" * 128, "longer than needed", id="leading zero"),
        pytest.param(b"\x30\x85\x01\x00\x00\x00\x00", "oversized", id="length of five octets"),
        pytest.param(b"\x30\xff" + b"\xff" * 127, "oversized", id="length of 127 octets"),
    ],
)
def test_content_refuses_what_is_not_der(data: bytes, detail: str) -> None:
    """An element with a wrong tag, a length DER forbids, or not enough bytes is refused."""
    with pytest.raises(DerError, match=detail):
        der.content(data, 0, SEQUENCE, len(data))


def test_content_does_not_read_past_its_end() -> None:
    """An element that exceeds its container is refused."""
    with pytest.raises(DerError, match="exceeds its container"):
        der.content(b"\x30\x02ab", 0, SEQUENCE, 3)


def test_last_refuses_what_follows() -> None:
    """An element that must be the last one may not be followed by data."""
    assert der.last(b"\x30\x01a", 0, SEQUENCE, 3) == 2
    with pytest.raises(DerError, match="1 bytes too many at byte 3"):
        der.last(b"\x30\x01ab", 0, SEQUENCE, 4)


@given(data=st.binary(max_size=12), at=st.integers(0, 12), end=st.integers(0, 12))
def test_content_of_any_bytes_is_refused_or_lies_within(data: bytes, at: int, end: int) -> None:
    """For any bytes, the result is a range within the given end, or a DerError."""
    end = min(end, len(data))
    try:
        start, stop = der.content(data, at, der.tag(data, at, end), end)
    except DerError:
        return
    assert at + 2 <= start <= stop <= end
