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
from relayd.runlog.dates import read_date
from relayd.runlog.grammar import EntryReader, clean
from relayd.runlog.model import RunLog

#: Lines are made in blocks of about this many bytes: a run log of empty lines would take 60
#: times its size as a list.
_BLOCK: Final = 2**20
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

#: Length of the stamp that agents write, and what follows it in a report.
_STAMP: Final = 25
_OPENING: Final = b" R: @@"
_OPENING_END: Final = _STAMP + len(_OPENING)

#: A field that begins with a stamp has a colon here: without it the field is left as it is.
_COLON: Final = 13

#: Ends the report that might go on; opens one that is never read.
_SENTINEL: Final = b"2000-01-01T00:00:00+00:00 R: @@"

#: No line has this.
_NOTHING: Final = b"\n"


def parse(text: bytes, node_id: str, skip: frozenset[str] = frozenset()) -> RunLog | Refused:
    """Reads a run log. Never raises, and takes time and memory in proportion to `text`.

    Args:
        text: verified content; lines end in CR LF, LF or CR; what is not UTF-8 becomes U+FFFD.
        node_id: whose run log it has to be.
        skip: event types that get no row.

    Returns:
        The run log; or `Refused` with NO_REPORT, NODE_MISMATCH, or TOO_LARGE when its log
        entries would grow beyond `assembly.MAX_LOG_ROWS`.
    """
    reader = _Reader(node_id, skip, text.count(b"\0"))
    try:
        for block in _blocks(text):
            reader.feed(_lines(block), escaped=b"\\" in block or b"\t" in block)
        return reader.finish()
    except RefusalError as error:
        return error.refused


def _blocks(text: bytes) -> Iterator[bytes]:
    """Cuts a run log after line ends."""
    start = 0
    while start < len(text):
        line_end = _LINE_END.search(text, start + _BLOCK)
        end = line_end.end() if line_end else len(text)
        yield text[start:end]
        start = end


def _lines(block: bytes) -> list[bytes]:
    """The same as `grammar.split_lines`, which is slower."""
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


class _Reader:
    """Reads line after line. The last report may be held back: it might go on."""

    def __init__(self, node_id: str, skip: frozenset[str], nuls: int) -> None:
        self._entries = Assembly(node_id, skip, nuls)
        self._slow = EntryReader(self._entries)
        self._node = node_id.encode(errors="surrogatepass")
        self._skip = frozenset(name.encode(errors="surrogatepass") for name in skip)
        self._held = b""
        self._date = b""

    def finish(self) -> RunLog | Refused:
        """Ends the run log."""
        self.feed([_SENTINEL], escaped=False)
        return self._entries.finish()

    def feed(self, lines: list[bytes], *, escaped: bool) -> None:
        """Takes the next lines; `escaped`: one of them may have something to escape for COPY."""
        entries, push, end = self._entries, self._slow.push, self._slow.end
        add = entries.rows.append
        node, start = self._node, entries.start
        prefix, special = self._provable()
        size = len(prefix)
        held, date = self._held, self._date
        for line in lines:
            if line[_STAMP:_OPENING_END] != _OPENING or not (stamp := read_date(line[:_STAMP])):
                if held:
                    push(held)
                    held = b""
                push(line)
                continue
            fields = (escape(held) if escaped else held).split(b"@@", 8)
            if len(fields) == 9:
                _, policy, event, rule, directive, report, component, key, tail = fields
                if (
                    tail.startswith(prefix)
                    and event not in special
                    and rule
                    and directive
                    and component
                    and component[_COLON : _COLON + 1] != b":"
                    and key[_COLON : _COLON + 1] != b":"
                    and tail[size + _COLON : size + _COLON + 1] != b":"
                ):
                    entries.last = row = b"\t".join(
                        (
                            date,
                            node,
                            directive,
                            rule,
                            report or b"0",
                            component,
                            key or b"None",
                            event,
                            tail[size:],
                            policy,
                            start,
                        )
                    )
                    add(row)
                    held, date = line, stamp
                    continue
            if held:
                push(held)
            end()
            start = entries.start
            prefix, special = self._provable()
            size = len(prefix)
            held, date = line, stamp
        self._held, self._date = held, date

    def _provable(self) -> tuple[bytes, frozenset[bytes]]:
        """What a report has before its message, and the event types it must not have."""
        entries = self._entries
        if entries.last is None or entries.logs_wait or b"@#" in self._node:
            return _NOTHING, frozenset()
        special = self._skip
        if not entries.complete or entries.config_id is None:
            special |= {b"control"}
        return b"%s##%s@#" % (entries.start.replace(b"T", b" "), self._node), special
