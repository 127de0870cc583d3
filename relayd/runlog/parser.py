"""Run logs to rows: a fast path for most lines, the grammar for all others.

Nearly all lines of a run log are stamped reports of one line, of the same node and start date, with
nothing to escape in their fields. For such a line, a few comparisons prove what `grammar` would
read, and its row is built from the parts of one split. If any of them fails, the line goes to
`grammar.EntryReader`, which then reads on until the next proven line. The tests verify that both
ways give the same result.
"""

import re
from collections.abc import Iterator
from typing import Final

from relayd.errors import Refused
from relayd.runlog.assembly import Assembly, RefusalError
from relayd.runlog.copytext import escape
from relayd.runlog.dates import read_short_date
from relayd.runlog.fields import split_stamp
from relayd.runlog.grammar import EntryReader, clean, split_opening, trim
from relayd.runlog.model import RunLog

#: Text is split into lines in blocks of about this many bytes: a list of the lines of a run log
#: takes up to 60 times its size, if they are empty.
_BLOCK: Final = 2**17
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

#: The text between the stamp and the first `@@` of a report.
_OPENING: Final = b" R: "
_LONGEST_OPENING: Final = len(b"2018-08-24T15:55:01.123456+00:00") + len(_OPENING)
#: More than an hour of seconds: nodes that run at the same time share entries.
_MAX_OPENINGS: Final = 4096

#: A field that begins with a stamp has a colon here; other fields stay unchanged.
_COLON: Final = 13

#: Pieces of a report of one line between separators.
_PARTS: Final = 9

#: Ends the last report; opens one that is never read.
_SENTINEL: Final = b"2000-01-01T00:00:00+00:00 R: @@"

#: Matches no line.
_NOTHING: Final = b"\n"


def parse(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Read a run log. Never raises; time and memory are proportional to the size of `text`.

    Args:
        text: verified content; lines end in CR LF, LF or CR; invalid UTF-8 becomes U+FFFD.
        node_id: the node that it must belong to.
        skip: event types that get no row.

    Returns:
        The run log; or `Refused` with NO_REPORT, NODE_MISMATCH, or TOO_LARGE when its log
        entries would grow beyond `assembly.MAX_LOG_ROWS`.
    """
    reader = _Reader(node_id, skip, text.count(b"\0") if b"\0" in text else 0)
    text, cut = trim(text)
    try:
        for block in _blocks(text):
            reader.feed(_lines(block), escaped=b"\\" in block or b"\t" in block)
        return reader.finish(cut)
    except RefusalError as error:
        return error.refused


def _blocks(text: bytes) -> Iterator[bytes]:
    """Split a run log into blocks, after line ends."""
    start = 0
    while start < len(text):
        line_end = _LINE_END.search(text, start + _BLOCK)
        end = line_end.end() if line_end else len(text)
        yield text[start:end]
        start = end


def _lines(block: bytes) -> list[bytes]:
    """Return the same as the slower `grammar.split_lines`."""
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
    """Text before the first `@@` of a line → its stamp in normal form, if it starts a report.

    A cache like `functools.lru_cache`, without a function call for a hit.
    """

    def __missing__(self, opening: bytes) -> bytes | None:
        if len(opening) > _LONGEST_OPENING or not opening.endswith(_OPENING):
            return None
        date = read_short_date(opening[: -len(_OPENING)])
        if date:
            if len(self) >= _MAX_OPENINGS:
                self.clear()
            self[opening] = date
        return date


def _opens_log(line: bytes) -> bool:
    """Return whether a line is stamped and opens a log entry, so that it ends the held report."""
    stamp, text = split_stamp(line)
    return stamp is not None and split_opening(text) is not None


_openings: Final = _Openings()


class _Reader:
    """Reads line by line. The last report is held back, because the next line may continue it."""

    def __init__(self, node_id: str, skip: frozenset[str], nuls: int) -> None:
        self._entries = Assembly(node_id, skip, nuls)
        self._slow = EntryReader(self._entries)
        self._node = node_id.encode(errors="surrogatepass")
        names = [name.encode(errors="surrogatepass") for name in skip]
        self._skip = frozenset(names).union(map(escape, names))
        #: The report that is held back: line, parts, stamp; all empty if there is none.
        self._held: tuple[bytes, list[bytes], bytes] = b"", [], b""

    def finish(self, cut: bytes) -> RunLog | Refused:
        """Return the run log, or the reason for its refusal; `cut`: what it lacks at its end."""
        held, parts, _ = self._held
        if held and len(parts) == _PARTS:
            self.feed([_SENTINEL], escaped=False)
        else:
            if held:
                self._slow.push(held)
            self._slow.end()
        if cut:
            self._entries.cut(cut)
        return self._entries.finish()

    def feed(self, lines: list[bytes], *, escaped: bool) -> None:
        """Read the next lines; `escaped`: some of them may need escaping for COPY."""
        entries, slow, openings = self._entries, self._slow, _openings
        push, end = slow.push, slow.end
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
            if (len(parts) != _PARTS) if held else slow.undecided:
                # It may be the last line of a component or key that only looks like an entry.
                if held:
                    push(held)
                    held, parts = b"", []
                push(line)
                continue
            # The held report is complete now.
            if (
                held
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
        """Return node id, START, the text before a message, and event types left to the grammar."""
        entries, node = self._entries, self._node
        if entries.last is None:
            return node, b"", _NOTHING, frozenset()
        start, special = entries.start, self._skip
        if not entries.complete or entries.config_id is None:
            special |= {b"control"}
        return node, start, b"%s##%s@#" % (entries.written, node), special
