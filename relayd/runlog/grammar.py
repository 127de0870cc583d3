"""The grammar of a run log, taken literally: lines, entries, reports.

    runlog  = [U+FEFF] *noise *entry      noise: lines before the first stamped entry
    entry   = opening *continuation       each of them one line
    line    = [stamp " "] text EOL        EOL: CR LF, LF or CR; the last may be missing
    stamp   = RFC 3339 date-time, its offset in any form
    text    = report / level [":"] *" " message / anything else, which is a continuation
    report  = "R: @@" policy "@@" event-type "@@" rule "@@" directive "@@" report-id "@@"
              component "@@" key "@@" START "##" node-id "@#" message

Each field ends at the first occurrence of its separator, so a message may contain anything.
Component, key and message may have several lines (`relayd.runlog.fields`). The last line of a
component or key may begin like an entry: it continues the report if that makes it complete, and
opens an entry if it does not. An opening without a stamp is the rest of a line
that was split at a lone CR (agents stamp each line they print): it takes the stamp of the nearest
stamped line above.

Everything is bytes, from the signature to COPY; only text in messages is decoded.
"""

import re
from functools import reduce
from typing import Final

from relayd.errors import Refused
from relayd.runlog.assembly import Assembly, RefusalError
from relayd.runlog.fields import OpenReport, split_stamp
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

#: Written by some editors and shells at the beginning of a text in UTF-8.
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
#: Matches a stamp that was cut anywhere, but not nothing.
_CUT_STAMP: Final = re.compile(
    rb"(?=.)"
    + reduce(
        lambda rest, piece: b"(?:%s%s)?" % (piece, rest),
        reversed(
            [rb"\d"] * 4 + [b"-", rb"\d", rb"\d"] * 2 + [b"[Tt]"] + [rb"\d", rb"\d", b":"] * 2
        ),
        rb"(?:\d(?:\d(?:\.\d*)?(?:[Zz]|[+-](?:\d(?:\d(?::?\d?\d?)?)?)?)?)?)?",
    )
)
#: No stamp or opening is longer, but for useless digits.
_LONGEST_CUT: Final = 100
#: Lines after one that may belong to a report or not, until it must be decided.
_LOOKAHEAD: Final = 1000


def parse_slow(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Return the same as `parser.parse`, line by line: the reference for its result."""
    entries = Assembly(node_id, skip, text.count(b"\0"))
    reader = EntryReader(entries)
    text, cut = trim(text)
    if cut:
        entries.cut(cut)
    try:
        for line in split_lines(text):
            reader.push(line)
        reader.end()
        return entries.finish()
    except RefusalError as error:
        return error.refused


def trim(text: bytes) -> tuple[bytes, bytes]:
    """Return a run log without what is no text of it: a byte-order mark, the rest of a cut line.

    A last line without its end is kept, unless it was cut before it says what it is: within its
    stamp, or within the words that would open an entry.

    Returns:
        The text, and the cut line.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK)
    end = max(text.rfind(b"\n", -_LONGEST_CUT), text.rfind(b"\r", -_LONGEST_CUT)) + 1
    cut = text[end:] if end else b""
    return (text[:end], cut) if cut and _is_cut(cut) else (text, b"")


def _is_cut(line: bytes) -> bool:
    stamp, text = split_stamp(line)
    if stamp is None:
        return _CUT_STAMP.fullmatch(line) is not None
    prefixes = (prefix for _, prefixes in LEVELS for prefix in (REPORT, *prefixes))
    return any(prefix.startswith(text) and text != prefix for prefix in prefixes)


def split_lines(text: bytes) -> list[bytes]:
    """Return the lines of a run log in valid UTF-8, without line ends and NUL characters."""
    lines = _EOL.split(text)
    if not lines[-1]:
        del lines[-1]
    return [clean(line) for line in lines]


def clean(text: bytes) -> bytes:
    """Replace invalid UTF-8 by U+FFFD and remove NUL, because PostgreSQL stores neither."""
    return text.decode(errors="replace").replace("\0", "").encode()


def split_opening(text: bytes) -> tuple[bytes, bytes] | None:
    """Return the kind of entry that a line without its stamp opens; None if it opens none.

    Returns:
        `REPORT` and the whole text, or the event type of a log entry and its message.
    """
    if text.startswith(REPORT):
        return REPORT, text
    match = _LEVEL.match(text)
    return match and (LEVELS[(match.lastindex or 0) - 1][0], text[match.end() :])


class EntryReader:
    """Assembles entries line by line."""

    def __init__(self, entries: Assembly) -> None:
        """Add the entries to `entries`."""
        self._entries = entries
        self._kind: bytes | None = None
        self._text = b""
        self._more = bytearray()
        self._report: OpenReport | None = None
        #: Stamp of the nearest stamped line, and of the open entry.
        self._stamp = self._opened = b""
        self._started = False
        #: Lines that the open report has got, but that open entries if it cannot be completed.
        self._doubtful: list[bytes] = []
        self._stamp_before = b""

    @property
    def undecided(self) -> bool:
        """Whether the next line may belong to the open report even if it begins like an entry."""
        return self._report is not None and not self._report.is_in_message

    def push(self, line: bytes) -> None:
        """Read the next line, without its end: it opens or continues an entry, or is noise."""
        if self._doubtful:
            self._push_doubtful(line)
        elif line[:1] not in _FIRST:
            self._continue(line, line)
        else:
            self._push(line)

    def _push(self, line: bytes) -> None:
        stamp, text = split_stamp(line)
        opening = split_opening(text)
        if opening and (stamp or self._started):
            if self._report is not None and self._report.may_end_in(text):
                self._stamp_before = self._stamp
                self._stamp = stamp or self._stamp
                self._try(line, text)
                return
            self.end()
            self._stamp = stamp or self._stamp
            self._open(*opening)
        else:
            self._stamp = stamp or self._stamp
            self._continue(line, text)

    def _open(self, kind: bytes, text: bytes) -> None:
        self._kind, self._text = kind, text
        self._report = OpenReport(text) if kind == REPORT else None
        self._opened = self._stamp
        self._started = True

    def _continue(self, line: bytes, text: bytes) -> None:
        if self._report is not None:
            self._report.add(line, text)
        elif self._started:
            self._more += b"\n"
            self._more += text
        else:
            self._entries.noise(line)

    def _try(self, line: bytes, text: bytes) -> None:
        """Continue the report with a line that is a doubtful one, or follows one."""
        assert self._report is not None
        self._doubtful.append(line)
        self._report.add(line, text)
        if self._report.is_complete:
            self._doubtful.clear()
        elif self._report.is_in_message or len(self._doubtful) > _LOOKAHEAD:
            self._take_back()

    def _push_doubtful(self, line: bytes) -> None:
        stamp, text = split_stamp(line)
        if split_opening(text) and b"@@" not in text:
            self._take_back()
            self.push(line)
        else:
            self._stamp = stamp or self._stamp
            self._try(line, text)

    def _take_back(self) -> None:
        """Give up the open report; its doubtful lines are read as what they look like."""
        lines, self._doubtful = self._doubtful, []
        self._stamp = self._stamp_before
        self.end()
        for line in lines:
            self.push(line)

    def end(self) -> None:
        """Finish the open entry, if there is one."""
        while self._doubtful:
            self._take_back()
        kind, report, stamp = self._kind, self._report, self._opened
        self._kind = self._report = None
        if report is not None:
            fields = report.read()
            if isinstance(fields, str):
                self._entries.broken(report.beginning, fields)
            else:
                self._entries.report(stamp, fields)
        elif kind is not None:
            text = self._text + self._more
            self._text = b""
            self._more.clear()
            self._entries.log(stamp, kind, split_stamp(text)[1])
