"""The subset of DER (ITU-T X.690) needed to read certificates and CMS signatures without copying.

A caller reads element by element what its grammar expects, so the nesting depth is fixed by the
code, not by the data. Elements that the grammar does not name are skipped unread.
"""

from typing import Final

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT_0: Final = 0xA0
CONTEXT_1: Final = 0xA1

_LONG_FORM: Final = 0x80
_MAX_LENGTH_OCTETS: Final = 4


class DerError(ValueError):
    """The bytes are not the expected DER; the text gives position and cause in one line."""


def tag(data: bytes, at: int, end: int) -> int:
    """Return the tag octet of the element at `at`; 0, which no element has, if there is none."""
    return data[at] if at < end else 0


def content(data: bytes, at: int, expected: int, end: int) -> tuple[int, int]:
    """Return start and end of the content of the element at `at`.

    Args:
        data: the whole encoding.
        at: offset of the element's tag.
        expected: the required tag octet.
        end: offset that the element must not exceed.

    Raises:
        DerError: wrong tag, too few bytes, or an indefinite, oversized or not minimal length.
    """
    if at + 2 > end:
        raise DerError(f"ends before the element expected at byte {at}")
    if data[at] != expected:
        raise DerError(f"tag {data[at]:#04x} instead of {expected:#04x} at byte {at}")
    start = at + 2
    length = data[at + 1]
    if length >= _LONG_FORM:
        octets = length - _LONG_FORM
        if not 1 <= octets <= _MAX_LENGTH_OCTETS:
            raise DerError(f"indefinite or oversized length at byte {at}")
        start += octets
        length = int.from_bytes(data[at + 2 : start], "big")
        if length < _LONG_FORM or length >> 8 * (octets - 1) == 0:
            raise DerError(f"length longer than needed at byte {at}")
    stop = start + length
    if stop > end:
        raise DerError(f"element at byte {at} exceeds its container")
    return start, stop


def last(data: bytes, at: int, expected: int, end: int) -> int:
    """Return the start of the content of the element at `at`, which must end exactly at `end`.

    Raises:
        DerError: as for `content`, or the element ends before `end`.
    """
    start, stop = content(data, at, expected, end)
    if stop != end:
        raise DerError(f"{end - stop} bytes too many at byte {stop}")
    return start


def encode(octet: int, *contents: bytes) -> bytes:
    """Return the DER element with this tag octet and the joined pieces as content."""
    body = b"".join(contents)
    if len(body) < _LONG_FORM:
        return bytes((octet, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((octet, _LONG_FORM | len(length))) + length + body
