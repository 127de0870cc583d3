"""The way of uploads from the nodes to relayd: over TLS, and kept by their node until it has them.

Nodes do as Rudder's agents do: each upload has a connection of its own, the server's certificate is
pinned, and what was not taken is sent again with the next run.
"""

import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import httpcore2
import trio

from relayd.commands.demo.fleet.upload import SimulatedUpload
from relayd.errors import StartError

#: The account of the nodes, as Rudder names it.
USER: Final = "rudder"

#: Seconds for one upload.
_PATIENCE_S: Final = 35.0
_TAKEN: Final = frozenset({201, 204})
_LATER: Final = 503
#: The text of such an answer that will not change by waiting.
_NO_SPACE: Final = b"no space left"
_UNREACHED: Final = (httpcore2.ConnectError, httpcore2.ConnectTimeout)
_CUT: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a node uploads its run logs.

    Attributes:
        url: the address, without a slash at the end.
        authorization: value of that header.
        context: for its connections; trusts one certificate.
    """

    url: str
    authorization: str
    context: ssl.SSLContext


def make_destination(url: str, password: str, certificate: str) -> Destination:
    """Return a destination.

    Args:
        url: the address, without a slash at the end.
        password: of the nodes.
        certificate: that of the server, PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    account = b64encode(f"{USER}:{password}".encode()).decode()
    return Destination(url, f"Basic {account}", context)


class Delivery:
    """All nodes, each with the uploads that relayd has not taken yet.

    Args:
        destination: returns that of a node, by its id.

    Attributes:
        unanswered: number of uploads whose answer was lost. They are sent again, so relayd may
            have got them twice.
    """

    def __init__(self, destination: Callable[[str], Destination]) -> None:
        self._destination = destination
        self._outboxes: dict[str, deque[SimulatedUpload]] = {}
        self._running: set[str] = set()
        self._failed: set[str] = set()
        self._names: set[str] = set()
        self.unanswered = 0

    @property
    def names(self) -> frozenset[str]:
        """The names of all files that were not taken yet, those on their way included."""
        return frozenset(self._names)

    def holds(self, name: str) -> bool:
        """Return whether a file was not taken yet; may be called from any thread."""
        return name in self._names

    @property
    def kept(self) -> int:
        """Number of uploads of the nodes whose last run failed; their next one sends them."""
        return sum(len(self._outboxes[node_id]) for node_id in self._failed)

    def add(self, upload: SimulatedUpload) -> None:
        """Give an upload to its node, which sends it with its next run."""
        self._outboxes.setdefault(upload.node_id, deque()).append(upload)
        self._names.add(upload.name)

    async def run_node(self, node_id: str) -> None:
        """Send what a node has, in order, until something is not taken.

        Raises:
            StartError: relayd has no disk space, or refuses uploads.
        """
        if node_id in self._running:
            return  # that run sends it too
        outbox = self._outboxes[node_id]
        self._running.add(node_id)
        self._failed.discard(node_id)
        try:
            while outbox and await self._send(outbox[0]):
                self._names.discard(outbox.popleft().name)
            if outbox:
                self._failed.add(node_id)
        finally:
            self._running.discard(node_id)

    async def run_all(self) -> None:
        """Run every node that has something to send."""
        for node_id, outbox in list(self._outboxes.items()):
            if outbox:
                await self.run_node(node_id)

    async def _send(self, upload: SimulatedUpload) -> bool:
        """Return whether relayd has taken an upload."""
        with trio.move_on_after(_PATIENCE_S):
            try:
                status, text = await _put(self._destination(upload.node_id), upload)
            except _UNREACHED:
                return False
            except _CUT:
                self.unanswered += 1
                return False
            if status in _TAKEN:
                return True
            if text.startswith(_NO_SPACE):
                raise StartError("relayd takes no uploads: not enough disk space")
            if status != _LATER:
                shown = text.decode(errors="replace").strip()
                raise StartError(f"relayd answered {status} to an upload: {shown}")
            return False
        self.unanswered += 1
        return False


async def _put(to: Destination, upload: SimulatedUpload) -> tuple[int, bytes]:
    headers: Mapping[bytes | str, bytes | str] = {
        "Authorization": to.authorization,
        "Connection": "close",
        "Content-Length": str(len(upload.body)),
    }
    url = f"{to.url}/reports/{quote(upload.name)}"
    async with httpcore2.AsyncConnectionPool(ssl_context=to.context) as pool:
        answer = await pool.request("PUT", url, headers=headers, content=upload.body)
        return answer.status, answer.content
