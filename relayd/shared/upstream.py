"""Shared files of nodes that are not below this relay, which the policy server above handles."""

from collections.abc import AsyncIterable
from typing import Final

from relayd.fleet.peers.client import Clients
from relayd.fleet.peers.urls import PUBLIC_API
from relayd.fleet.pins import UPSTREAM_PEER
from relayd.shared.paths import SharedFileId

#: What Rudder's own configuration of a web server publishes.
_PATH: Final = f"{PUBLIC_API}/shared-files/"


class UpstreamFiles:
    """Passes requests on to the policy server above.

    Args:
        clients: know it as `UPSTREAM_PEER`.
        base: `https://HOST:PORT`.
    """

    def __init__(self, clients: Clients, base: str) -> None:
        self._clients = clients
        self._base = base + _PATH

    async def pass_on(
        self,
        method: str,
        ids: SharedFileId,
        query: str,
        body: AsyncIterable[bytes] | None,
        size: int,
    ) -> int:
        """Make a request and return the status of the answer; the caller sets the deadline.

        Args:
            method: `PUT` or `HEAD`.
            ids: the file, as returned by `check_ids`: nothing in it needs encoding.
            query: query string of the request, as received.
            body: body of the request; it is sent while it arrives.
            size: size of the body in bytes.

        Raises:
            PeerError: there was no answer.
        """
        url = self._base + "/".join(ids) + (f"?{query}" if query else "")
        headers = {} if body is None else {"Content-Length": str(size)}
        async with self._clients.request(
            UPSTREAM_PEER, method, url, headers=headers, content=body
        ) as answer:
            return answer.status
