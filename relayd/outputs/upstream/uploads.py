"""Uploads to the policy server above: one PUT for each file, and what its answer means."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Final, Literal, Protocol
from urllib.parse import quote_from_bytes

import msgspec
import trio

from relayd.config.main_conf import Settings
from relayd.config.secret import Secret
from relayd.errors import PeerError
from relayd.fleet.peers.client import Answer
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import UPSTREAM_PEER, PinnedClients
from relayd.outputs.upstream.gate import Trouble

#: An upload may take so long, and a second more for each so many bytes.
BASE_TIMEOUT_S: Final = 30.0
SLOWEST_BYTES_PER_S: Final = 16 * 1024
#: The upstream may neither take nor send a byte for so long.
PATIENCE_S: Final = 30.0
#: Longest wait that the upstream may ask for.
LONGEST_WAIT_S: Final = 600.0
#: An answer's body is read to its end so that the connection can be used again; not beyond this.
ANSWER_SIZE: Final = 64 * 1024
DRAIN_TIMEOUT_S: Final = 1.0

#: Answers that mean that the file is there. No redirect is: it was not sent anywhere else.
DONE: Final = frozenset({200, 201, 204})
#: About all files of its kind: credentials, path, a proxy.
_OPERATOR: Final = frozenset({401, 403, 404, 407})
#: Passes by itself, although the class of the status says it is our fault (RFC 9110, 6585, 8470).
_BUSY: Final = frozenset({408, 425, 429})


class Route(msgspec.Struct, frozen=True):
    """A kind of file.

    Attributes:
        name: for the log.
        path: first segment of the upstream's path.
        credential: key of `output.upstream` with the password.
    """

    name: str
    path: str
    credential: Literal["password", "default_password"]


REPORTS: Final = Route("reports", "reports", "password")
#: Nodes that the server does not know yet have no password of their own.
NEW_INVENTORIES: Final = Route("new inventories", "inventories", "default_password")
INVENTORY_UPDATES: Final = Route("inventory updates", "inventory-updates", "password")


class Content(Protocol):
    """An opened file.

    Attributes:
        size: bytes that will be sent.
        whole: all of them, if they are few.
    """

    size: int
    whole: bytes | None

    def pieces(self) -> AsyncIterator[bytes]:
        """Exactly `size` bytes, else raises `OSError`."""
        ...


class Upstream:
    """Where a relay's files go.

    Args:
        settings: `output.upstream` and the port.
        peers: has the client.
    """

    def __init__(self, settings: Settings, peers: PinnedClients) -> None:
        self._peers = peers
        self._base = base_url(settings.output.upstream.host, settings.general.https_port)
        self._settings = settings.output.upstream

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: user and passwords."""
        self._settings = settings.output.upstream

    async def look(self) -> Trouble | None:
        """Return whether the right upstream can be reached; sends no request."""
        await self._peers.attempted.wait()
        try:
            await self._peers.clients.probe(UPSTREAM_PEER, self._base)
        except PeerError as error:
            return _unanswered(error)
        return None

    async def put(self, route: Route, name: str, content: Content) -> Trouble | None:
        """Upload a file.

        Args:
            route: its kind.
            name: base name, as `os.fsdecode` gives it.
            content: the file.

        Returns:
            None when the upstream has it, else why not.

        Raises:
            OSError: the file cannot be read to its end; nothing is stored upstream.
        """
        await self._peers.attempted.wait()
        # A name may hold any byte but "/". What a path segment may show as it is stays readable.
        url = f"{self._base}/{route.path}/{quote_from_bytes(os.fsencode(name), safe='@:+')}"
        try:
            with trio.fail_after(BASE_TIMEOUT_S + content.size / SLOWEST_BYTES_PER_S):
                async with self._peers.clients.request(
                    UPSTREAM_PEER,
                    "PUT",
                    url,
                    headers={} if content.whole is not None else _length(content),
                    content=content.pieces() if content.whole is None else content.whole,
                    auth=(self._settings.user, self._password(route)),
                    stall_timeout=PATIENCE_S,
                ) as answer:
                    return await _judge(answer)
        except PeerError as error:
            return _unanswered(error)
        except trio.TooSlowError:
            return Trouble("the upstream did not answer in time", "transient")

    def _password(self, route: Route) -> Secret:
        if route.credential == "default_password":
            return self._settings.default_password
        return self._settings.password or Secret("")


def _length(content: Content) -> dict[str, str]:
    return {"Content-Length": str(content.size)}


async def _judge(answer: Answer) -> Trouble | None:
    if answer.status not in DONE:
        return judge(answer.status, answer.headers.get("retry-after", ""))
    # The head says that the file is there; the rest only decides if the connection can stay.
    size = 0
    with trio.move_on_after(DRAIN_TIMEOUT_S), suppress(PeerError):
        async for chunk in answer.chunks():
            size += len(chunk)
            if size > ANSWER_SIZE:
                break
    return None


def judge(status: int, retry_after: str = "") -> Trouble:
    """Return what an answer without success means.

    Args:
        status: of HTTP, final, none of `DONE`.
        retry_after: the header of this name (RFC 9110, 10.2.3).
    """
    detail = f"the upstream answered {status}"
    if 300 <= status < 400:
        return Trouble(f"{detail}, redirects are not followed", "operator")
    if status in _OPERATOR:
        return Trouble(detail, "operator")
    if 400 <= status < 500 and status not in _BUSY:
        return Trouble(detail, "file")
    return Trouble(detail, "transient", wait=_wait(retry_after))


def _wait(retry_after: str) -> float:
    """Return seconds that are asked for, within bounds; 0 where nothing sensible is."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _unanswered(error: PeerError) -> Trouble:
    return Trouble(f"upstream: {error}", error.kind, reached=error.reached)
