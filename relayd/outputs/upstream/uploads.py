"""Uploads to the policy server above: one PUT for each file, and the meaning of the answer."""

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
from relayd.fleet.peers.uploads import ANSWER_SIZE, Origin, UploadLimits, basic, head
from relayd.fleet.peers.urls import base_url
from relayd.fleet.pins import UPSTREAM_PEER, PinnedClients
from relayd.outputs.health import Trouble

#: The slowest upload that is waited for.
SLOWEST_BYTES_PER_S: Final = 16 * 1024
#: The longest wait that the upstream can ask for, seconds.
LONGEST_WAIT_S: Final = 600.0

#: Answers that mean that the file was stored. Redirects are not followed, so none of them does.
DONE: Final = frozenset({200, 201, 204})
#: These concern all files of a kind: credentials, path, a proxy.
_OPERATOR: Final = frozenset({401, 403, 404, 407})
#: These pass by themselves, although 4xx blames the client (RFC 9110, 6585, 8470).
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
#: Nodes that the server has not accepted yet have no password of their own.
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


class UploadPatience(msgspec.Struct, frozen=True):
    """How long an upload may take, in seconds.

    Attributes:
        upload: for all of it; more by its size, see `SLOWEST_BYTES_PER_S`.
        silence: the longest time in which the upstream neither takes nor sends a byte.
        drain: for the rest of an answer whose status says that the file was stored.
    """

    upload: float = 30.0
    silence: float = 30.0
    drain: float = 1.0


PATIENCE: Final = UploadPatience()


class Upstream:
    """Where a relay's files go.

    Args:
        settings: `output.upstream` and the port.
        peers: has the client.
        patience: how long uploads may take.
    """

    def __init__(
        self, settings: Settings, peers: PinnedClients, patience: UploadPatience = PATIENCE
    ) -> None:
        self._patience = patience
        self._peers = peers
        self._base = base_url(settings.output.upstream.host, settings.general.https_port)
        self._settings = settings.output.upstream
        self._origin: Origin | None = None
        self._heads: dict[Route, tuple[bytes, bytes]] = {}

    def reconfigure(self, settings: Settings) -> None:
        """Take over what needs no restart: user and passwords."""
        self._settings = settings.output.upstream
        self._heads.clear()

    async def probe(self) -> Trouble | None:
        """Check whether the right upstream can be reached; send no request."""
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
            None when the upstream has the file, else why not.

        Raises:
            OSError: the file cannot be read to its end; the upstream stores nothing.
        """
        if not self._peers.attempted.is_set():
            await self._peers.attempted.wait()
        # A name can contain any byte but "/". Whatever is legal in a path segment stays readable.
        path = f"/{route.path}/{quote_from_bytes(os.fsencode(name), safe='@:+')}"
        patience = self._patience
        total = patience.upload + content.size / SLOWEST_BYTES_PER_S
        try:
            if content.whole is not None:
                limits = UploadLimits(total, patience.silence, patience.drain)
                return await self._put_small(route, path, content.whole, limits)
            with trio.fail_after(total):
                return await self._put_large(route, path, content)
        except PeerError as error:
            return _unanswered(error)
        except trio.TooSlowError:
            return Trouble("the upstream did not answer in time", "transient")

    async def _put_small(
        self, route: Route, path: str, body: bytes, limits: UploadLimits
    ) -> Trouble | None:
        clients = self._peers.clients
        origin = self._origin
        if origin is None:
            self._origin = origin = clients.origin(self._base)
        before, after = self._heads.get(route) or self._make_head(route, origin)
        request = b"PUT %b%b%d%b%b" % (path.encode("ascii"), before, len(body), after, body)
        reply = await clients.upload(UPSTREAM_PEER, origin, request, limits)
        return None if reply.status in DONE else judge(reply.status, reply.retry_after)

    def _make_head(self, route: Route, origin: Origin) -> tuple[bytes, bytes]:
        authorization = basic(self._settings.user, self._password(route))
        self._heads[route] = made = head(origin, authorization)
        return made

    async def _put_large(self, route: Route, path: str, content: Content) -> Trouble | None:
        async with self._peers.clients.request(
            UPSTREAM_PEER,
            "PUT",
            f"{self._base}{path}",
            headers={"Content-Length": str(content.size)},
            content=content.pieces(),
            auth=(self._settings.user, self._password(route)),
            stall_timeout=self._patience.silence,
        ) as answer:
            return await self._judge(answer)

    async def _judge(self, answer: Answer) -> Trouble | None:
        if answer.status not in DONE:
            return judge(answer.status, answer.headers.get("retry-after", ""))
        # The head says that the file was stored; the rest only decides if the connection can stay.
        size = 0
        with trio.move_on_after(self._patience.drain), suppress(PeerError):
            async for chunk in answer.chunks():
                size += len(chunk)
                if size > ANSWER_SIZE:
                    break
        return None

    def _password(self, route: Route) -> Secret:
        if route.credential == "default_password":
            return self._settings.default_password
        return self._settings.password or Secret("")


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
    """Return the seconds that the upstream asks for, within bounds; 0 for a senseless value."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError, LookupError, TypeError, OSError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _unanswered(error: PeerError) -> Trouble:
    return Trouble(f"upstream: {error}", error.kind, reached=error.reached)
