"""The grammar of a run log, taken literally: lines, entries, reports.

    runlog  = *noise *entry               noise: lines before the first stamped entry
    entry   = opening *continuation       each of them one line
    line    = [stamp " "] text EOL        EOL: CR LF, LF or CR; the last may be missing
    stamp   = RFC 3339 date-time
    text    = report / level [":"] *" " message / anything else, which is a continuation
    report  = "R: @@" policy "@@" event-type "@@" rule "@@" directive "@@" report-id "@@"
              component "@@" key "@@" START "##" node-id "@#" message

Each field ends where its separator is first found, so that a message may hold anything. Component,
key and message may have several lines: they are joined by LF, and a stamp at the start of any of
them, the first one too, is removed. An opening without a stamp is the rest of a line that a lone
CR cut (agents stamp each line they print): it has the stamp of the nearest stamped line above.

Everything is bytes, from the signature to COPY; nothing is decoded but what people are shown.
"""

import re
from typing import Final

from relayd.errors import Refused
from relayd.runlog.assembly import Assembly, RefusalError, ReportFields
from relayd.runlog.dates import SHORTEST_DATE, read_date, read_start
from relayd.runlog.model import RunLog

REPORT: Final = b"R: @@"

#: What opens a log entry, beside the event type it becomes. The first that fits counts, so the
#: last "R:" stands for all that no line above it names.
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
#: First bytes of stamps and of all that opens an entry.
_FIRST: Final = frozenset(
    [b"%d" % digit for digit in range(10)]
    + [prefix[:1] for _, prefixes in LEVELS for prefix in prefixes]
)
_EOL: Final = re.compile(rb"\r\n|\n|\r")


def parse_slow(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Return the same as `parser.parse`, line by line: what that has to agree with."""
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
    """Return the lines of a run log, without their ends, in valid UTF-8 and without NUL characters."""
    lines = _EOL.split(text)
    if not lines[-1]:
        del lines[-1]
    return [clean(line) for line in lines]


def clean(text: bytes) -> bytes:
    """`text` with U+FFFD for what is not UTF-8, and without NUL: PostgreSQL stores neither."""
    return text.decode(errors="replace").replace("\0", "").encode()


def split_stamp(line: bytes) -> tuple[bytes | None, bytes]:
    """Return the stamp of a line in normal form, or None, and the text behind it."""
    end = line.find(b" ")
    date = read_date(line[:end]) if end >= SHORTEST_DATE else None
    return (date, line[end + 1 :]) if date else (None, line)


def split_opening(text: bytes) -> tuple[bytes, bytes] | None:
    """Return what a line without its stamp opens; None when it opens nothing.

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
        Its fields, or what is wrong with it.
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
    """Puts entries together, line by line."""

    def __init__(self, entries: Assembly) -> None:
        """Reads into `entries`."""
        self._entries = entries
        self._kind: bytes | None = None
        self._text = b""
        self._more = bytearray()
        #: Of the nearest stamped line, and of the entry that is open.
        self._stamp = self._opened = b""
        self._started = False

    def push(self, line: bytes) -> None:
        """Take the next line, without its end. It opens an entry, continues one or is noise."""
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
        """Hand over the entry that is open, if one is: nothing continues it any more."""
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
