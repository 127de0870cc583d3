"""Remote runs of the whole fleet, started at the root server, and the agents' output."""

from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Final

import httpcore2
import msgspec
import trio

from relayd.commands.demo.ledger import Entry
from relayd.fleet.peers.urls import API

_FORM: Final = b"asynchronous=true&keep_output=true"
_HEADERS: Final[dict[bytes | str, bytes | str]] = {
    "Accept": "application/x-ndjson",
    "Content-Type": "application/x-www-form-urlencoded",
}
_FAILURES: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)
#: Lines of output to show.
_SHOWN: Final = 4


class _Event(msgspec.Struct):
    """The fields of a run's event that the demo uses."""

    event: str
    node: str | None = None
    output: str = ""
    code: int | None = None


class RemoteRunClient:
    """The remote runs of a demo, one after the other.

    Attributes:
        curl: command line that starts the same remote run.
        output: the last lines of the agents' output.
        finished: number of finished runs.
    """

    def __init__(self, port: int, nodes: int) -> None:
        """Prepare remote runs.

        Args:
            port: port of the root server's API on 127.0.0.1.
            nodes: number of agents that each run should reach.
        """
        self._url = f"http://127.0.0.1:{port}{API}/remote-run/all"
        self._nodes = nodes
        self._succeeded = 0
        self._last = ""
        self.curl = f"curl -d keep_output=true 127.0.0.1:{port}{API}/remote-run/all"
        self.output: deque[str] = deque(maxlen=_SHOWN)
        self.finished = 0

    async def run(self) -> None:
        """Run every agent once; return when the last one has finished."""
        begin = trio.current_time()
        verdicts: Counter[bool] = Counter()
        try:
            async with (
                httpcore2.AsyncConnectionPool() as pool,
                pool.stream("POST", self._url, headers=_HEADERS, content=_FORM) as answer,
            ):
                if answer.status == 200:
                    async for event in _events(answer.aiter_stream()):
                        self._record(event, verdicts)
        except _FAILURES:
            pass  # shows in the balance: agents without a verdict do not count
        self.finished += 1
        self._succeeded += verdicts[True]
        seconds = trio.current_time() - begin
        self._last = f"{verdicts[True]} of {self._nodes} agents in {seconds:.1f} s"

    def _record(self, event: _Event, verdicts: Counter[bool]) -> None:
        if event.event == "output":
            self.output.append(event.output)
        elif event.event in ("exit", "unreachable", "hop_error"):
            verdicts[event.code == 0] += 1

    def progress(self) -> str:
        """Return the result of the last run, in a few words."""
        return f"run {self.finished}: {self._last}" if self.finished else "none finished yet"

    def entry(self) -> Entry:
        """Return the line of the balance for the finished runs."""
        text, short = "agents run by remote runs", "agents run"
        return Entry(text, self.finished * self._nodes, self._succeeded, short)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[_Event]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield msgspec.json.decode(line, type=_Event)
