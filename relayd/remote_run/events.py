"""The report on a run, as events or as plain output, with one verdict for each node."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec
import trio

from relayd.remote_run.answer import Sink

Kind = Literal["queued", "started", "output", "exit", "unreachable", "hop_error"]

VERDICTS: Final = ("exit", "unreachable", "hop_error")
#: Bytes of output in one run; further output is read and dropped.
OUTPUT_LIMIT: Final = 64 * 1024 * 1024
#: Begins the lines of an answer in text that say what is missing from it.
NOTE: Final = "rudder-relayd: incomplete: "
#: Notes of relays below that are kept for the end of an answer.
_NOTES: Final = 20
#: Nodes that a note or a log line names.
_NAMED: Final = 5
#: Pause after each dropped piece, so that a flood does not keep a core busy until the deadline.
DROP_PAUSE_S: Final = 0.01
#: Bytes of one line in an event. Even escaped in JSON it stays below what relays read as a line.
MAX_LINE: Final = 8 * 1024


def named(nodes: Sequence[str]) -> str:
    """Return how many nodes these are, and the first of them: `2 nodes (n1, n2)`."""
    names = ", ".join(nodes[:_NAMED]) + ", …" * (len(nodes) > _NAMED)
    what = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{what} ({names})"


class RunEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a run, a line of `application/x-ndjson`.

    Attributes:
        event: kind of event. `queued`: `relay` will try; `started`: the command for the node runs;
            `output`: a line of output; and the verdicts `exit`: the command ended, `unreachable`:
            there is no route to the node, `hop_error`: a relay on the route failed.
        relay: node id of the relay that reports it.
        node: node id; absent if a line of output may come from any of several nodes.
        output: the line, without its line end; only in `output`.
        code: exit code, or minus the number of a signal; None if unknown; only in `exit`.
        nodes: number of nodes that the command was for; only in `exit`. If it is more than one, a
            code other than 0 says that at least one of them failed.
        detail: one line on what went wrong.
    """

    event: Kind
    relay: str
    node: str | None = None
    output: str | msgspec.UnsetType = msgspec.UNSET
    code: int | msgspec.UnsetType | None = msgspec.UNSET
    nodes: int | msgspec.UnsetType = msgspec.UNSET
    detail: str = ""


class RunReporter:
    """Reports a run to its sink, ensures one verdict for each node, and counts for the audit.

    Attributes:
        verdicts: number of verdicts by kind; exits are split into `ok` (code 0), `failed`,
            `some_failed` (of a command for several nodes, at least one failed) and `unknown`.
        dropped: bytes of output that were dropped.
        cut: number of nodes whose command or relay was given up.
    """

    def __init__(self, sink: Sink, *, events: bool, keep_output: bool) -> None:
        self._sink = sink
        self._events = events
        self._keep_output = keep_output
        self._open: set[str] = set()
        self._quota = OUTPUT_LIMIT
        self._last_source = ""
        self._mid_line = False
        self._notes: list[str] = []
        self.verdicts: Counter[str] = Counter()
        self.dropped = 0
        self.cut = 0

    def expect(self, nodes: Iterable[str]) -> None:
        """Add nodes that are to get a verdict."""
        self._open.update(nodes)

    async def queued(self, nodes: Iterable[str], relay: str) -> None:
        """Report that a relay is responsible for these nodes."""
        for node in nodes:
            await self._report(RunEvent("queued", relay, node))

    async def started(self, nodes: Iterable[str], relay: str) -> None:
        """Report that the command for these nodes runs."""
        for node in nodes:
            await self._report(RunEvent("started", relay, node))

    def without_verdict(self, nodes: Iterable[str]) -> list[str]:
        """Return those of these nodes that have no verdict yet."""
        return [node for node in nodes if node in self._open]

    async def verdict(self, event: RunEvent) -> None:
        """Report a verdict, unless the node already has one."""
        if event.node not in self._open:
            return
        self._open.remove(event.node)
        self.verdicts[_outcome(event)] += 1
        await self._report(event)

    async def finish(self, nodes: Iterable[str], relay: str, detail: str, kind: Kind) -> None:
        """Report the same verdict for those of these nodes that have none yet."""
        code = None if kind == "exit" else msgspec.UNSET
        for node in self.without_verdict(nodes):
            await self.verdict(RunEvent(kind, relay, node, code=code, detail=detail))

    async def give_up(self, nodes: Iterable[str], relay: str, detail: str, kind: Kind) -> None:
        """Report that nodes have no verdict because their command or relay was given up."""
        lost = self.without_verdict(nodes)
        if lost:
            self.cut += len(lost)
            self.note(f"{NOTE}{named(lost)}: {detail}")
        await self.finish(lost, relay, detail, kind)

    def note(self, line: str) -> bool:
        """Keep a line for the end of an answer in text; return False if there are too many."""
        if len(self._notes) >= _NOTES:
            return False
        self._notes.append(line)
        return True

    async def end(self) -> None:
        """Write the notes, after all output: a client of text has no verdicts."""
        if self.dropped:
            self.note(f"{NOTE}{self.dropped} bytes of output were dropped")
        if self._events or not (self._keep_output and self._notes):
            return
        lines = [""] * self._mid_line + [*self._notes, ""]
        await self._sink.write("\n".join(lines).encode("utf-8", "replace"), vital=True)

    async def output(self, data: bytes, relay: str, node: str | None, source: str) -> None:
        """Report output: whole lines, or the rest of one.

        Args:
            data: the output as it was printed.
            relay: node id of the relay that it comes from.
            node: the node that it comes from; None if it may be one of several.
            source: name of the command or relay, so that lines of different ones are not mixed.
        """
        if not self._keep_output:
            await trio.lowlevel.checkpoint()
            return
        if self._quota < len(data):
            await self._drop(data)
            return
        self._quota -= len(data)
        if self._events:
            data = b"".join(
                _line(RunEvent("output", relay, node, output=line)) for line in text_lines(data)
            )
        elif self._mid_line and self._last_source != source:
            data = b"\n" + data
        self._last_source, self._mid_line = source, not data.endswith(b"\n")
        if not await self._sink.write(data):
            await self._drop(data)

    async def _drop(self, data: bytes) -> None:
        self._quota = 0
        self.dropped += len(data)
        await trio.sleep(DROP_PAUSE_S)

    async def _report(self, event: RunEvent) -> None:
        await trio.lowlevel.checkpoint()
        if self._events:
            await self._sink.write(_line(event), vital=True)


class LineCutter:
    """Joins pieces into whole lines; a line that gets too long is returned in parts."""

    def __init__(self) -> None:
        self._begun = b""

    def cut(self, data: bytes) -> bytes:
        """Return the lines that `data` completes; b"" if there are none."""
        data = self._begun + data
        end = len(data) if len(data) > MAX_LINE and b"\n" not in data else data.rfind(b"\n") + 1
        if len(data) - end > MAX_LINE:
            end = len(data)
        self._begun = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """Return the remainder at the end: a line without a line end, or b""."""
        return self._begun


def text_lines(data: bytes) -> Iterator[str]:
    """Yield the lines of `data` as text without line ends; long ones in parts."""
    for line in data.removesuffix(b"\n").split(b"\n"):
        for start in range(0, len(line) or 1, MAX_LINE):
            part = line[start : start + MAX_LINE]
            yield part.removesuffix(b"\r").decode("utf-8", "replace")


def _line(event: RunEvent) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _outcome(event: RunEvent) -> str:
    if event.event != "exit":
        return event.event
    if not isinstance(event.code, int):
        return "unknown"
    if not event.code:
        return "ok"
    shared = isinstance(event.nodes, int) and event.nodes > 1
    return "some_failed" if shared else "failed"
