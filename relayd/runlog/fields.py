"""The fields of one report, read line by line.

Component, key and message may have several lines, which are joined by LF. A stamp at the beginning
of any of them is removed, since agents stamp each line that they print; a line of a component or
key that is not its last one may have two. The line end before a separator is no part of the field,
unless a stamp stands between them. All of this is as in the original.
"""

from typing import Final

from relayd.runlog.assembly import SHOWN, ReportFields
from relayd.runlog.dates import SHORTEST_DATE, read_date, read_start
from relayd.system.printable import printable

_SEPARATOR: Final = b"@@"
#: Fields before the last separator, the opening included; component and key are the last two.
_FIELDS: Final = 8
_FREE: Final = (6, 7)
#: Bytes of a broken report that are kept for its warning.
_BEGINNING: Final = 4 * (SHOWN + 1)
#: No date is longer, but for blanks.
_LONGEST_START: Final = 40


def split_stamp(line: bytes) -> tuple[bytes | None, bytes]:
    """Return the stamp of a line in normal form, or None, and the text after it."""
    end = line.find(b" ")
    date = read_date(line[:end]) if end >= SHORTEST_DATE else None
    return (date, line[end + 1 :]) if date else (None, line)


class OpenReport:
    """A report of which further lines may follow.

    Attributes:
        beginning: its first bytes, for a warning.
        is_complete: whether all fields before the message are there, and START can be read.
        is_in_message: whether the last separator was read, so that the message has begun unless
            the report is broken.
    """

    def __init__(self, text: bytes) -> None:
        """Begin with the first line, without its stamp."""
        self.beginning = text[:_BEGINNING]
        self.is_complete = self.is_in_message = False
        self._fields: list[bytes] = []
        self._broken = False
        self._earlier = bytearray()
        self._line = b""
        #: START, node id and message, from the last separator on.
        self._tail = bytearray()
        self._start = b""
        self._node_at = self._message_at = -1
        self._read(text)

    def may_end_in(self, text: bytes) -> bool:
        """Return whether an open component or key may end in a line with this text."""
        return len(self._fields) in _FREE and not self._broken and _SEPARATOR in text

    def add(self, line: bytes, text: bytes) -> None:
        """Add a line; `text` is the line without its stamp."""
        if len(self.beginning) < _BEGINNING:
            self.beginning += b"\n" + text[:_BEGINNING]
        if self.is_in_message:
            self._tail += b"\n"
            self._tail += text
        elif len(self._fields) in _FREE:
            self._earlier += split_stamp(self._line)[1]
            if not line.startswith(_SEPARATOR):
                self._earlier += b"\n"
            self._line, separator, rest = text.partition(_SEPARATOR)
            if separator:
                self._end_field()
                self._read(rest)
        else:
            self._broken = True
            self._read(text)

    def _read(self, text: bytes) -> None:
        """Read a line from the beginning of a field on."""
        *ended, rest = text.split(_SEPARATOR, _FIELDS - len(self._fields))
        for field in ended:
            self._begin_field(field)
            self._end_field()
        if len(self._fields) == _FIELDS:
            self._read_tail(rest)
        else:
            self._begin_field(rest)

    def _begin_field(self, text: bytes) -> None:
        self._line = split_stamp(text)[1] if len(self._fields) in _FREE else text

    def _end_field(self) -> None:
        self._fields.append(bytes(self._earlier) + self._line)
        self._earlier.clear()
        self._line = b""

    def _read_tail(self, text: bytes) -> None:
        self.is_in_message = True
        self._tail += text
        self._node_at = text.find(b"##")
        start = read_start(text[: self._node_at]) if self._node_at >= 0 else None
        if start is not None and not self._broken:
            self._start = start
            self._message_at = text.find(b"@#", self._node_at + 2)
            self.is_complete = self._message_at >= 0

    def read(self) -> ReportFields | str:
        """Return the fields of the whole report, or a description of its fault."""
        if not self.is_in_message:
            return f"{len(self._fields)} of {_FIELDS} fields"
        if not self._start and not self._broken:
            return self._why_no_start()
        if self._broken or (self._message_at < 0 and b"@#" in self._tail):
            return "a line end in a field of one line"
        if self._message_at < 0:
            return "no node id"
        tail = bytes(self._tail)
        node_id = tail[self._node_at + 2 : self._message_at]
        message = split_stamp(tail[self._message_at + 2 :])[1]
        written = tail[: self._node_at]
        fields = (*self._fields[1:], self._start, node_id, message, written)
        return ReportFields._make(fields)

    def _why_no_start(self) -> str:
        start, found, _ = bytes(self._tail[:_LONGEST_START]).partition(b"##")
        shown = printable(start.decode(errors="replace"), _LONGEST_START)
        return f"its start date cannot be read: {shown!r}" if found else "no start date"
