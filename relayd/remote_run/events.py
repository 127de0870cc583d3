"""What happens in a run, told either as events or as the mere output; one verdict for each node."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec
import trio

from relayd.remote_run.answer import Sink

Kind = Literal["queued", "started", "output", "exit", "unreachable", "hop_error"]

VERDICTS: Final = ("exit", "unreachable", "hop_error")
#: Bytes of output in one run; what comes beyond is read and dropped.
OUTPUT_LIMIT: Final = 64 * 1024 * 1024
#: Between two pieces that are dropped: a flood shall not keep a core busy until its deadline.
DROP_PAUSE_S: Final = 0.01
#: Bytes of one line in an event. Escaped in JSON it stays below what relays read as one line.
MAX_LINE: Final = 8 * 1024


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened, as it is told in `application/x-ndjson`.

    Attributes:
        event: what. `queued`: will be tried by `relay`; `started`: the command for it runs;
            `output`: a line; the verdicts `exit`: the command ended, `unreachable`: there is no
            way to the node, `hop_error`: a relay on the way failed.
        relay: node id of the relay that tells.
        node: node id; absent where a line may be of any of several nodes.
        output: the line, without its end; only in `output`.
        code: exit code, negative the number of a signal, None when it is not known; only in `exit`.
        nodes: how many nodes the command was for, whose common exit this is; only in `exit`.
        detail: one line on what went wrong.
    """

    event: Kind
    relay: str
    node: str | None = None
    output: str | msgspec.UnsetType = msgspec.UNSET
    code: int | msgspec.UnsetType | None = msgspec.UNSET
    nodes: int | msgspec.UnsetType = msgspec.UNSET
    detail: str = ""


class Teller:
    """Tells a run to its sink, keeps one verdict for each node, and counts for the audit.

    Attributes:
        verdicts: by kind, exits told apart in `ok` (code 0), `failed` and `unknown`.
        dropped: bytes of output that were left out.
    """

    def __init__(self, sink: Sink, *, events: bool, keep_output: bool) -> None:
        self._sink = sink
        self._events = events
        self._keep_output = keep_output
        self._open: set[str] = set()
        self._room = OUTPUT_LIMIT
        self._speaker = ""
        self._in_line = False
        self.verdicts: Counter[str] = Counter()
        self.dropped = 0

    def take_on(self, nodes: Iterable[str]) -> None:
        """Each of these nodes gets a verdict from now on."""
        self._open.update(nodes)

    async def queued(self, nodes: Iterable[str], relay: str) -> None:
        """These nodes are in the hands of a relay."""
        for node in nodes:
            await self._tell(Event("queued", relay, node))

    async def started(self, nodes: Iterable[str], relay: str) -> None:
        """The command for these nodes runs."""
        for node in nodes:
            await self._tell(Event("started", relay, node))

    def open_of(self, nodes: Iterable[str]) -> list[str]:
        """Those of these nodes that wait for their verdict."""
        return [node for node in nodes if node in self._open]

    async def verdict(self, event: Event) -> None:
        """Return a verdict, unless the node has one already."""
        if event.node not in self._open:
            return
        self._open.remove(event.node)
        self.verdicts[_outcome(event)] += 1
        await self._tell(event)

    async def unfinished(self, nodes: Iterable[str], relay: str, detail: str, kind: Kind) -> None:
        """Return the same verdict to those of these nodes that have none."""
        code = None if kind == "exit" else msgspec.UNSET
        for node in self.open_of(nodes):
            await self.verdict(Event(kind, relay, node, code=code, detail=detail))

    async def output(self, data: bytes, relay: str, node: str | None, source: str) -> None:
        """Return output: whole lines, or the rest of one.

        Args:
            data: as it was printed.
            relay: node id of the relay that it comes from.
            node: its node, if there is only one that it can be of.
            source: names the command or relay, so that lines of two are not mixed.
        """
        if not self._keep_output:
            await trio.lowlevel.checkpoint()
            return
        if self._room < len(data):
            await self._drop(data)
            return
        self._room -= len(data)
        if self._events:
            data = b"".join(
                _line(Event("output", relay, node, output=line)) for line in text_lines(data)
            )
        elif self._in_line and self._speaker != source:
            data = b"\n" + data
        self._speaker, self._in_line = source, not data.endswith(b"\n")
        if not await self._sink.write(data):
            await self._drop(data)

    async def _drop(self, data: bytes) -> None:
        self._room = 0
        self.dropped += len(data)
        await trio.sleep(DROP_PAUSE_S)

    async def _tell(self, event: Event) -> None:
        await trio.lowlevel.checkpoint()
        if self._events:
            await self._sink.write(_line(event), vital=True)


class LineCutter:
    """Makes whole lines of pieces; a line that gets too long is given on unfinished."""

    def __init__(self) -> None:
        self._begun = b""

    def cut(self, data: bytes) -> bytes:
        """Return the lines that are complete with `data`; b"" when there are none."""
        data = self._begun + data
        end = len(data) if len(data) > MAX_LINE and b"\n" not in data else data.rfind(b"\n") + 1
        if len(data) - end > MAX_LINE:
            end = len(data)
        self._begun = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """Return what is left at the end: a line without its end, or b""."""
        return self._begun


def text_lines(data: bytes) -> Iterator[str]:
    """Yield the lines of `data` as text without their ends; long ones in parts."""
    for line in data.removesuffix(b"\n").split(b"\n"):
        for start in range(0, len(line) or 1, MAX_LINE):
            part = line[start : start + MAX_LINE]
            yield part.removesuffix(b"\r").decode("utf-8", "replace")


def _line(event: Event) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _outcome(event: Event) -> str:
    if event.event != "exit":
        return event.event
    if not isinstance(event.code, int):
        return "unknown"
    return "failed" if event.code else "ok"
