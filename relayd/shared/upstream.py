"""Shared files of nodes that are not below this relay: the policy server above has them."""

from collections.abc import AsyncIterable
from typing import Final

from relayd.fleet.peers.client import Clients
from relayd.fleet.pins import UPSTREAM_PEER

_ROOM: Final = "/relay-api/shared-files/"

Ids = tuple[str, str, str]


class UpstreamFiles:
    """Makes requests that came here to the policy server above.

    Args:
        clients: knows it as `upstream`.
        base: `https://HOST:PORT`.
    """

    def __init__(self, clients: Clients, base: str) -> None:
        self._clients = clients
        self._base = base + _ROOM

    async def pass_on(
        self, method: str, ids: Ids, query: str, body: AsyncIterable[bytes] | None, size: int
    ) -> int:
        """Make a request and waits for the status of its answer; the caller sets the deadline.

        Args:
            method: `PUT` or `HEAD`.
            ids: target, source and file, checked: nothing in them needs encoding.
            query: of the request, as it came.
            body: of the request; it is sent while it arrives.
            size: its bytes.

        Returns:
            The status, whatever it is.

        Raises:
            PeerError: there was no answer.
        """
        url = self._base + "/".join(ids) + (f"?{query}" if query else "")
        headers = {} if body is None else {"Content-Length": str(size)}
        async with self._clients.request(
            UPSTREAM_PEER, method, url, headers=headers, content=body
        ) as answer:
            return answer.status
