"""Run logs to rows: most lines in one glance, whatever that does not prove by the grammar.

Nearly all of a run log are stamped reports of one line, of one node and start date, with nothing
in their fields that has to be escaped. For such a line a handful of comparisons prove what
`grammar` would read, and its row is put together from the parts of one split. Any doubt, and the
line goes to `grammar.EntryReader`, which then reads on until the next proven line; so both ways
give the same result, of which the tests make sure.
"""

import re
from collections.abc import Iterator
from typing import Final

from relayd.errors import Refused
from relayd.runlog.assembly import Assembly, RefusalError
from relayd.runlog.copytext import escape
from relayd.runlog.dates import read_short_date
from relayd.runlog.grammar import EntryReader, clean, split_opening, split_stamp
from relayd.runlog.model import RunLog

#: Lines are made in blocks of about this many bytes: a run log of empty lines would take 60
#: times its size as a list.
_BLOCK: Final = 2**17
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

#: What a report has before its first `@@`, behind the stamp that agents write.
_OPENING: Final = b" R: "
_STAMP_SIZE: Final = len(b"2018-08-24T15:55:01+00:00")
_OPENING_SIZE: Final = _STAMP_SIZE + len(_OPENING)
#: More than an hour of seconds: nodes that run at the same time share them.
_MAX_OPENINGS: Final = 4096

#: A field that begins with a stamp has a colon here: without it the field is left as it is.
_COLON: Final = 13

#: Ends the report that might go on; opens one that is never read.
_SENTINEL: Final = b"2000-01-01T00:00:00+00:00 R: @@"

#: No line has this.
_NOTHING: Final = b"\n"


def parse(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Read a run log. Never raises, and takes time and memory in proportion to `text`.

    Args:
        text: verified content; lines end in CR LF, LF or CR; what is not UTF-8 becomes U+FFFD.
        node_id: whose run log it has to be.
        skip: event types that get no row.

    Returns:
        The run log; or `Refused` with NO_REPORT, NODE_MISMATCH, or TOO_LARGE when its log
        entries would grow beyond `assembly.MAX_LOG_ROWS`.
    """
    reader = _Reader(node_id, skip, text.count(b"\0") if b"\0" in text else 0)
    try:
        for block in _blocks(text):
            reader.feed(_lines(block), escaped=b"\\" in block or b"\t" in block)
        return reader.finish()
    except RefusalError as error:
        return error.refused


def _blocks(text: bytes) -> Iterator[bytes]:
    """Cut a run log after line ends."""
    start = 0
    while start < len(text):
        line_end = _LINE_END.search(text, start + _BLOCK)
        end = line_end.end() if line_end else len(text)
        yield text[start:end]
        start = end


def _lines(block: bytes) -> list[bytes]:
    """Return the same as `grammar.split_lines`, which is slower."""
    lines = block.splitlines()
    if b"\0" in block or not _is_utf8(block):
        return [clean(line) for line in lines]
    return lines


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Openings(dict[bytes, bytes | None]):
    """What a line has before its first `@@` → its stamp in normal form, when a report starts."""

    def __missing__(self, opening: bytes) -> bytes | None:
        if len(opening) != _OPENING_SIZE or not opening.endswith(_OPENING):
            return None
        date = read_short_date(opening[:_STAMP_SIZE])
        if date:
            if len(self) >= _MAX_OPENINGS:
                self.clear()
            self[opening] = date
        return date


def _opens_log(line: bytes) -> bool:
    """Return a stamped line that opens a log entry: what is held needs not be read by the grammar."""
    stamp, text = split_stamp(line)
    return stamp is not None and split_opening(text) is not None


#: A cache like `functools.lru_cache`, without a call for what is found.
_openings: Final = _Openings()


class _Reader:
    """Reads line after line. The last report is held back: it might go on."""

    def __init__(self, node_id: str, skip: frozenset[str], nuls: int) -> None:
        self._entries = Assembly(node_id, skip, nuls)
        self._slow = EntryReader(self._entries)
        self._node = node_id.encode(errors="surrogatepass")
        names = [name.encode(errors="surrogatepass") for name in skip]
        self._skip = frozenset(names).union(map(escape, names))
        #: The report that is held back: line, parts, stamp; all empty when there is none.
        self._held: tuple[bytes, list[bytes], bytes] = b"", [], b""

    def finish(self) -> RunLog | Refused:
        """Ends the run log."""
        self.feed([_SENTINEL], escaped=False)
        return self._entries.finish()

    def feed(self, lines: list[bytes], *, escaped: bool) -> None:
        """Take the next lines; `escaped`: one of them may have something to escape for COPY."""
        entries, push, end, openings = self._entries, self._slow.push, self._slow.end, _openings
        add, logs = entries.rows.append, entries.logs
        node, start, prefix, special = self._provable()
        message, colon = len(prefix), len(prefix) + _COLON
        held, parts, date = self._held
        for line in lines:
            next_parts = (escape(line) if escaped else line).split(b"@@", 8)
            next_date = openings[next_parts[0]]
            if next_date is None and not (held and _opens_log(line)):
                if held:
                    push(held)
                    held, parts = b"", []
                push(line)
                continue
            # What is held is a whole report now.
            if (
                len(parts) == 9
                and parts[8][:message] == prefix
                and (event := parts[2]) not in special
                and (rule := parts[3])
                and (directive := parts[4])
                and (component := parts[6])
                and component[_COLON : _COLON + 1] != b":"
                and (key := parts[7])[_COLON : _COLON + 1] != b":"
                and parts[8][colon : colon + 1] != b":"
            ):
                # fmt: off
                entries.last = row = b"\t".join((
                    date, node, directive, rule, parts[5] or b"0", component, key or b"None", event,
                    parts[8][message:], parts[1], start,
                ))
                # fmt: on
                if logs:
                    entries.add_logs()
                add(row)
            else:
                if held:
                    push(held)
                end()
                node, start, prefix, special = self._provable()
                message, colon = len(prefix), len(prefix) + _COLON
            if next_date:
                held, parts, date = line, next_parts, next_date
            else:
                held, parts = b"", []
                push(line)
        self._held = held, parts, date

    def _provable(self) -> tuple[bytes, bytes, bytes, frozenset[bytes]]:
        """Node id, START, what a report has before its message, and the types it must not have."""
        entries, node = self._entries, self._node
        if entries.last is None:
            return node, b"", _NOTHING, frozenset()
        start, special = entries.start, self._skip
        if not entries.complete or entries.config_id is None:
            special |= {b"control"}
        return node, start, b"%s##%s@#" % (start.replace(b"T", b" "), node), special
