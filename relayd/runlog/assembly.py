"""The entries of a run log become rows; faulty ones are dropped with a warning."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from relayd.errors import Reason, Refused
from relayd.runlog.copytext import escape, join
from relayd.runlog.dates import instant
from relayd.runlog.model import COLUMNS, RunLog
from relayd.system.printable import printable

#: Warnings per run log, and characters of the run log in one of them.
MAX_WARNINGS: Final = 20
SHOWN: Final = 200
#: Bytes of that many characters in UTF-8, and of one more that shows the cut.
_SHOWN_BYTES: Final = 4 * (SHOWN + 1)
#: One of so many characters may be undecodable, as in Latin-1, or a control character.
_ODD_SHARE: Final = 4

#: Maximum size of log entries as rows, in bytes: each becomes a row with the fields of a report, so
#: a few megabytes of them and one huge component would make terabytes.
MAX_LOG_ROWS: Final = 256 * 2**20
#: Approximate memory of a waiting log entry besides its message, on a 64-bit CPython.
_LOG_OVERHEAD: Final = 200

_DATE: Final = COLUMNS.index("executiondate")
_EVENT: Final = COLUMNS.index("eventtype")
_MESSAGE: Final = COLUMNS.index("msg")


class ReportFields(NamedTuple):
    """The fields of a well-formed report, unchanged except for START in normal form.

    `written` is START as the report has it.
    """

    policy: bytes
    event_type: bytes
    rule_id: bytes
    directive_id: bytes
    report_id: bytes
    component: bytes
    key_value: bytes
    start: bytes
    node_id: bytes
    message: bytes
    written: bytes


class RefusalError(Exception):
    """The run log is refused, whatever follows in it."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refused = refused


class Assembly:
    """Collects the entries of one run log and makes its rows.

    Rows are COPY lines without their newline.

    Attributes:
        rows: the rows to insert.
        skipped: number of rows that are not inserted.
        first: columns of the first row, skipped or not, not escaped; empty before it.
        last: row of the last report, skipped or not; rows of later log entries are made from it.
        logs: stamp, event type and message of log entries that wait for their report.
        start: START of the first report, in normal form, or empty.
        written: the same as it was written.
        config_id: key of the first control report of a start or an end.
        complete: whether there is a control report of a start.
    """

    def __init__(self, node_id: str, skip: frozenset[str], nuls: int) -> None:
        """Start empty.

        Args:
            node_id: the node of the run log.
            skip: event types whose rows are not inserted.
            nuls: number of NUL characters removed from the text.
        """
        self.node_id = node_id
        self.rows: list[bytes] = []
        self.skipped = 0
        self.first: tuple[bytes, ...] = ()
        self.last: bytes | None = None
        self.start = b""
        self.written = b""
        self.config_id: bytes | None = None
        self.complete = False
        self._node = node_id.encode(errors="surrogatepass")
        self._nuls = nuls
        self._skip = frozenset(name.encode(errors="surrogatepass") for name in skip)
        self.logs: list[tuple[bytes, bytes, bytes]] = []
        self._log_size = 0
        self._faults: list[str] = []
        self._fault_count = 0
        self._noise = _Noted()
        self._cut = b""
        self._blank = True
        self._other_start = _Noted()

    def report(self, date: bytes, fields: ReportFields) -> None:
        """Add the log entries that wait for this report, and the report itself.

        Raises:
            RefusalError: it belongs to another node, or the log entries take too much memory.
        """
        if fields.node_id != self._node:
            raise RefusalError(
                Refused(
                    Reason.NODE_MISMATCH, f"contains a report of node '{_shown(fields.node_id)}'"
                )
            )
        if not (fields.rule_id and fields.directive_id and fields.component):
            what = b"@@".join((fields.policy, fields.event_type, *fields[2:4], *fields[5:7]))
            self._fault("report without rule, directive or component dropped", what)
            return
        self._note_start(fields.start, fields.written)
        self._note_control(fields)
        columns = _columns(date, fields)
        if not self.first:
            self.first = _as_log(columns, *self.logs[0]) if self.logs else columns
        self.last = join(columns)
        self.add_logs()
        self._add(self.last, fields.event_type)

    def log(self, date: bytes, event_type: bytes, message: bytes) -> None:
        """Add a log entry, which waits for the next report.

        Raises:
            RefusalError: the log entries take too much memory.
        """
        self._check_size(len(message) + _LOG_OVERHEAD)
        self.logs.append((date, event_type, message))

    def add_logs(self) -> None:
        """Turn the waiting log entries into rows made from `last`.

        Raises:
            RefusalError: they take too much memory.
        """
        if not self.logs:
            return
        assert self.last is not None
        columns = tuple(self.last.split(b"\t"))
        self._check_size(len(self.logs) * (len(self.last) - len(columns[_MESSAGE])))
        for date, event_type, message in self.logs:
            row = b"\t".join(_as_log(columns, date, event_type, escape(message)))
            self._add(row, event_type)
        self.logs.clear()

    def broken(self, text: bytes, fault: str) -> None:
        """Note an entry that begins like a report but is malformed."""
        self._fault(f"broken report skipped ({fault})", text)

    def noise(self, line: bytes) -> None:
        """Note a line before the first entry."""
        self._noise.add(line)
        self._blank = self._blank and not line.strip()

    def cut(self, line: bytes) -> None:
        """Note a last line that ends before it says anything."""
        self._cut = line

    def finish(self) -> RunLog | Refused:
        """Return the run log; nothing can be added afterwards.

        Raises:
            RefusalError: the log entries take too much memory.
        """
        if self.last is None:
            return Refused(Reason.NO_REPORT, self._why_no_report())
        self.add_logs()
        warnings = tuple(self._warnings())
        rows = self.rows
        return RunLog(
            node_id=self.node_id,
            start=self.start.decode(),
            config_id=None if self.config_id is None else self.config_id.decode(),
            complete=self.complete,
            reports=len(rows) + self.skipped,
            rows=len(rows),
            copy=b"\n".join((*rows, b"")),
            first=tuple(column.decode() for column in self.first),
            warnings=warnings,
            broken=self._fault_count,
        )

    def _add(self, row: bytes, event_type: bytes) -> None:
        if event_type in self._skip:
            self.skipped += 1
        else:
            self.rows.append(row)

    def _check_size(self, more: int) -> None:
        self._log_size += more
        if self._log_size > MAX_LOG_ROWS:
            raise RefusalError(
                Refused(
                    Reason.TOO_LARGE, f"log entries take more than {MAX_LOG_ROWS} bytes as rows"
                )
            )

    def _note_start(self, start: bytes, written: bytes) -> None:
        if not self.start:
            self.start, self.written = start, written
        elif start != self.start and instant(start) != instant(self.start):
            self._other_start.add(start)

    def _note_control(self, fields: ReportFields) -> None:
        if fields.event_type != b"control" or fields.component not in {b"start", b"end"}:
            return
        self.complete = self.complete or fields.component == b"start"
        if self.config_id is None:
            self.config_id = fields.key_value or b"None"

    def _fault(self, fault: str, text: bytes) -> None:
        self._fault_count += 1
        if self._fault_count <= MAX_WARNINGS:
            self._faults.append(f"{fault}: {_shown(text)}")

    def _warnings(self) -> list[str]:
        summaries = list(self._summaries())
        warnings = [*summaries, *self._faults][:MAX_WARNINGS]
        more = len(summaries) + self._fault_count - len(warnings)
        return [*warnings, f"… and {more} more"] if more else warnings

    def _summaries(self) -> Iterator[str]:
        if self._nuls:
            yield f"NUL characters removed: {self._nuls}"
        if self._noise.count:
            yield f"lines before the first entry skipped: {self._noise}"
        if self._cut:
            yield f"the log ends within a line, which is dropped: {_shown(self._cut)}"
        if self._other_start.count:
            yield f"reports with another start date than {self.start.decode()}: {self._other_start}"
        if self.config_id is None:
            yield "no configuration id: no control report of component start or end"

    def _why_no_report(self) -> str:
        if self._fault_count:
            return f"no usable report, {self._fault_count} broken; {self._faults[0]}"
        if self.logs:
            return f"no report, only log entries: {len(self.logs)}"
        if self._blank:
            return "empty run log, as an agent in changes-only mode may send it"
        return f"no report, only other lines: {self._noise}"


class _Noted:
    """A count of similar things, with the first of them as an example."""

    def __init__(self) -> None:
        self.count = 0
        self._first = b""

    def add(self, what: bytes) -> None:
        if not self.count:
            self._first = what[:_SHOWN_BYTES]
        self.count += 1

    def __str__(self) -> str:
        return f"{self.count}, the first: {_shown(self._first)}"


def _shown(text: bytes) -> str:
    """Return the beginning of a text, or that it is none, as in an image."""
    begin = text[:_SHOWN_BYTES].decode(errors="replace")
    odd = sum(char == "\ufffd" or (char < " " and char != "\t") for char in begin)
    if odd * _ODD_SHARE > len(begin):
        return "data that is not text"
    return printable(begin, SHOWN)


def _as_log(
    columns: tuple[bytes, ...], date: bytes, event_type: bytes, message: bytes
) -> tuple[bytes, ...]:
    """Return the columns of a report with date, type and message of a log entry."""
    return (date, *columns[_DATE + 1 : _EVENT], event_type, message, *columns[_MESSAGE + 1 :])


def _columns(date: bytes, fields: ReportFields) -> tuple[bytes, ...]:
    return (
        date,
        fields.node_id,
        fields.directive_id,
        fields.rule_id,
        fields.report_id or b"0",
        fields.component,
        fields.key_value or b"None",
        fields.event_type,
        fields.message,
        fields.policy,
        fields.start,
    )
