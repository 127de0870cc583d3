"""Remote runs over the whole fleet, started at the root server, and what the agents say."""

from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Final

import httpcore2
import msgspec
import trio

from relayd.commands.demo.ledger import Entry
from relayd.commands.demo.processes.daemon import API

_FORM: Final = b"asynchronous=true&keep_output=true"
_HEADERS: Final[dict[bytes | str, bytes | str]] = {
    "Accept": "application/x-ndjson",
    "Content-Type": "application/x-www-form-urlencoded",
}
_FAILURES: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)
#: Lines of output that are kept to be shown.
_SHOWN: Final = 4


class _Event(msgspec.Struct):
    """What is read of an event of a run."""

    event: str
    node: str | None = None
    output: str = ""
    code: int | None = None


class RemoteRunClient:
    """All runs of a demo, one after the other.

    Attributes:
        curl: the command line with which a person does the same.
        output: the last lines that agents have said.
        ended: number of runs that are over.
    """

    def __init__(self, port: int, nodes: int) -> None:
        """Prepares runs.

        Args:
            port: of the root server's API on 127.0.0.1.
            nodes: how many agents there are to run.
        """
        self._url = f"http://127.0.0.1:{port}{API}/remote-run/all"
        self._nodes = nodes
        self._answered = 0
        self._last = ""
        self.curl = f"curl -N -d asynchronous=true -d keep_output=true {self._url}"
        self.output: deque[str] = deque(maxlen=_SHOWN)
        self.ended = 0

    async def run(self) -> None:
        """Have every agent run once; ends with the last of them."""
        begin = trio.current_time()
        verdicts: Counter[bool] = Counter()
        try:
            async with (
                httpcore2.AsyncConnectionPool() as pool,
                pool.stream("POST", self._url, headers=_HEADERS, content=_FORM) as answer,
            ):
                if answer.status == 200:
                    async for event in _events(answer.aiter_stream()):
                        self._take(event, verdicts)
        except _FAILURES:
            pass  # the missing verdicts tell
        self.ended += 1
        self._answered += verdicts[True]
        seconds = trio.current_time() - begin
        self._last = f"{verdicts[True]} of {self._nodes} agents in {seconds:.1f} s"

    def _take(self, event: _Event, verdicts: Counter[bool]) -> None:
        if event.event == "output":
            self.output.append(event.output)
        elif event.event in ("exit", "unreachable", "hop_error"):
            verdicts[event.code == 0] += 1

    def told(self) -> str:
        """Return how the last run went, in a few words."""
        return f"run {self.ended}: {self._last}" if self.ended else "none has ended yet"

    def entry(self) -> Entry:
        """Return what the books say of the runs that have ended."""
        return Entry("agents run by remote run", self.ended * self._nodes, self._answered)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[_Event]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield msgspec.json.decode(line, type=_Event)
