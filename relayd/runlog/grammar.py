"""The grammar of a run log, taken literally: lines, entries, reports.

    runlog  = *noise *entry               noise: lines before the first stamped entry
    entry   = opening *continuation       each of them one line
    line    = [stamp " "] text EOL        EOL: CR LF, LF or CR; the last may be missing
    stamp   = RFC 3339 date-time
    text    = report / level [":"] *" " message / anything else, which is a continuation
    report  = "R: @@" policy "@@" event-type "@@" rule "@@" directive "@@" report-id "@@"
              component "@@" key "@@" START "##" node-id "@#" message

Each field ends at the first occurrence of its separator, so a message may contain anything.
Component, key and message may have several lines: these are joined by LF, and a stamp at the start
of any of them, including the first, is removed. An opening without a stamp is the rest of a line
that was split at a lone CR (agents stamp each line they print): it takes the stamp of the nearest
stamped line above.

Everything is bytes, from the signature to COPY; only text in messages is decoded.
"""

import re
from typing import Final

from relayd.errors import Refused
from relayd.runlog.assembly import Assembly, RefusalError, ReportFields
from relayd.runlog.dates import SHORTEST_DATE, read_date, read_start
from relayd.runlog.model import RunLog

REPORT: Final = b"R: @@"

#: Event types and the prefixes that open a log entry of that type. The first match counts, so the
#: last "R:" matches everything not listed above it.
LEVELS: Final[tuple[tuple[bytes, tuple[bytes, ...]], ...]] = (
    (b"log_warn", (b"CRITICAL", b"   error", b" warning")),
    (b"log_warn", (b"rudder CRITICAL", b"rudder    error", b"rudder  warning")),
    (b"log_warn", (b"R: [FATAL]", b"R: [ERROR]", b"R: WARNING", b"R: DEBUG")),
    (b"log_debug", (b" verbose", b"   debug", b"R: [DEBUG]")),
    (b"log_info", (b"  notice", b"    info", b"rudder   notice", b"rudder     info")),
    (b"log_info", (b"R: [INFO]", b"R:")),
)

_LEVEL: Final = re.compile(
    b"(?:%s):? *"
    % b"|".join(b"(%s)" % b"|".join(map(re.escape, prefixes)) for _, prefixes in LEVELS)
)
#: First bytes of stamps and of everything that opens an entry.
_FIRST: Final = frozenset(
    [b"%d" % digit for digit in range(10)]
    + [prefix[:1] for _, prefixes in LEVELS for prefix in prefixes]
)
_EOL: Final = re.compile(rb"\r\n|\n|\r")


def parse_slow(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Return the same as `parser.parse`, line by line: the reference for its result."""
    entries = Assembly(node_id, skip, text.count(b"\0"))
    reader = EntryReader(entries)
    try:
        for line in split_lines(text):
            reader.push(line)
        reader.end()
        return entries.finish()
    except RefusalError as error:
        return error.refused


def split_lines(text: bytes) -> list[bytes]:
    """Return the lines of a run log in valid UTF-8, without line ends and NUL characters."""
    lines = _EOL.split(text)
    if not lines[-1]:
        del lines[-1]
    return [clean(line) for line in lines]


def clean(text: bytes) -> bytes:
    """Replace invalid UTF-8 by U+FFFD and remove NUL, because PostgreSQL stores neither."""
    return text.decode(errors="replace").replace("\0", "").encode()


def split_stamp(line: bytes) -> tuple[bytes | None, bytes]:
    """Return the stamp of a line in normal form, or None, and the text after it."""
    end = line.find(b" ")
    date = read_date(line[:end]) if end >= SHORTEST_DATE else None
    return (date, line[end + 1 :]) if date else (None, line)


def split_opening(text: bytes) -> tuple[bytes, bytes] | None:
    """Return the kind of entry that a line without its stamp opens; None if it opens none.

    Returns:
        `REPORT` and the whole text, or the event type of a log entry and its message.
    """
    if text.startswith(REPORT):
        return REPORT, text
    match = _LEVEL.match(text)
    return match and (LEVELS[(match.lastindex or 0) - 1][0], text[match.end() :])


def read_report(text: bytes) -> ReportFields | str:
    """Read a whole report, without its stamp, its lines joined by LF.

    Returns:
        Its fields, or a description of the fault.
    """
    opening, *fields = text.split(b"@@", 8)
    if opening + b"@@" != REPORT or len(fields) != 8:
        return f"{len(fields)} of 8 fields"
    policy, event_type, rule_id, directive_id, report_id, component, key, tail = fields
    start_end = tail.find(b"##")
    start = read_start(tail[:start_end]) if start_end >= 0 else None
    if start is None:
        return "no start date"
    node_end = tail.find(b"@#", start_end + 2)
    if node_end < 0:
        return "no node id"
    node_id = tail[start_end + 2 : node_end]
    one_line = (policy, event_type, rule_id, directive_id, report_id, node_id)
    if b"\n" in text and any(b"\n" in field for field in one_line):
        return "a line end in a field of one line"
    message = split_stamp(tail[node_end + 2 :])[1]
    component, key = split_stamp(component)[1], split_stamp(key)[1]
    return ReportFields(*one_line[:5], component, key, start, node_id, message)


class EntryReader:
    """Assembles entries line by line."""

    def __init__(self, entries: Assembly) -> None:
        """Add the entries to `entries`."""
        self._entries = entries
        self._kind: bytes | None = None
        self._text = b""
        self._more = bytearray()
        #: Stamp of the nearest stamped line, and of the open entry.
        self._stamp = self._opened = b""
        self._started = False

    def push(self, line: bytes) -> None:
        """Read the next line, without its end: it opens or continues an entry, or is noise."""
        if line[:1] not in _FIRST:
            self._continue(line, line)
            return
        stamp, text = split_stamp(line)
        opening = split_opening(text)
        self._stamp = stamp or self._stamp
        if opening and (stamp or self._started):
            self.end()
            self._kind, self._text = opening
            self._opened = self._stamp
            self._started = True
        else:
            self._continue(line, text)

    def _continue(self, line: bytes, text: bytes) -> None:
        if self._started:
            self._more += b"\n"
            self._more += text
        else:
            self._entries.noise(line)

    def end(self) -> None:
        """Finish the open entry, if there is one."""
        kind, stamp = self._kind, self._opened
        if kind is None:
            return
        text = self._text + self._more
        self._kind, self._text = None, b""
        self._more.clear()
        if kind != REPORT:
            self._entries.log(stamp, kind, split_stamp(text)[1])
            return
        fields = read_report(text)
        if isinstance(fields, str):
            self._entries.broken(text, fields)
        else:
            self._entries.report(stamp, fields)
