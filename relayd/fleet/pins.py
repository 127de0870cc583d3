"""The clients of other policy servers, and the certificates that are pinned for each."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from relayd.config.in_force import modified
from relayd.config.main_conf import Settings
from relayd.errors import PeerError, PeerStep
from relayd.fleet.formats import pem_blocks
from relayd.fleet.nodes import Nodes
from relayd.fleet.peers.client import CONNECT_TIMEOUT_S, Clients
from relayd.fleet.peers.proxy import ProxyRoute
from relayd.runlog.signature.certificates import read_validity
from relayd.system.delays import DELAYS, Steps
from relayd.system.files import open_regular
from relayd.system.shortage import words_of
from relayd.system.threads import in_thread
from relayd.telemetry.logs import get_logger
from relayd.telemetry.metrics import Metrics

log = get_logger("upstream")

#: Name of the upstream among the clients; no node id, since sub-relays are named by theirs.
UPSTREAM_PEER: Final = "(upstream)"


class PinnedClients:
    """Owner of the clients and of their current pins.

    Attributes:
        clients: one for each peer: the upstream and the sub-relays.
        attempted: set after the first attempt to read the upstream's pins.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        delays: Steps = DELAYS.pins,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_S,
    ) -> None:
        general, upstream = settings.general, settings.output.upstream
        self.clients = Clients(
            general.peer_authentication,
            ca_path=general.ca_path,
            idle_timeout=general.https_idle_timeout,
            connect_timeout=connect_timeout,
            route=ProxyRoute(general.https_proxy, general.no_proxy),
        )
        pinned = bool(upstream.host) and general.peer_authentication == "cert_pinning"
        self._file = upstream.server_certificate_file if pinned else None
        self._metrics = metrics
        self._delays = delays
        self._limiter = trio.CapacityLimiter(1)
        self._missing = pinned
        self._modified = 0.0
        self._upstream: tuple[bytes, ...] = ()
        self._nodes: Nodes | None = None
        self.attempted = trio.Event()
        if not pinned:
            self.attempted.set()

    async def read_upstream(self) -> tuple[bytes, ...]:
        """Read the pins of the upstream, without applying them; none if pinning is not in use.

        Raises:
            PeerError: the file cannot be read, or has no valid certificates.
        """
        if self._file is None:
            return ()
        # A thread that hangs in a dead file system must not hold up a stop.
        self._modified, pins = await in_thread(
            _read_version, self._file, abandon_on_cancel=True, limiter=self._limiter
        )
        return pins

    def take_upstream(self, pins: tuple[bytes, ...]) -> None:
        """Apply the pins of the upstream."""
        self._upstream = pins
        self._missing = self._file is not None and not pins
        if pins:
            self._metrics.note_file("upstream_certificate", self._modified)
            self._report_expiry(pins)
        self._update()
        self.attempted.set()

    def take_nodes(self, nodes: Nodes) -> None:
        """Apply the certificates of sub-relays."""
        self._nodes = nodes
        self._update()

    def _update(self) -> None:
        pins = {} if self._nodes is None else dict(self._nodes.peers)
        pins.pop(UPSTREAM_PEER, None)
        if self._upstream:
            pins[UPSTREAM_PEER] = self._upstream
        self.clients.update(pins)

    def _report_expiry(self, pins: tuple[bytes, ...]) -> None:
        ends = max(read_validity(pin).end for pin in pins)
        self._metrics.upstream_certificate_expiry.set(ends)
        if ends < time.time():
            log.warning(
                "the expired certificate of the upstream is still trusted",
                detail=f"expired on {time.strftime('%Y-%m-%d', time.gmtime(ends))}",
            )

    async def run(self, loaded: Callable[[], None]) -> None:
        """Close unused connections, and retry reading the upstream's pins; run forever.

        Args:
            loaded: called when pins that had been missing were read.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.clients.run, name="close unused connections")
            attempt = 0
            while self._missing:
                try:
                    self.take_upstream(await self.read_upstream())
                except PeerError as error:
                    if not attempt:
                        log.error(
                            "upstream certificate cannot be loaded; retrying", detail=str(error)
                        )
                    self.attempted.set()
                    attempt += 1
                    await trio.sleep(self._delays.after(attempt))
                else:
                    loaded()


def _read_version(path: Path) -> tuple[float, tuple[bytes, ...]]:
    return modified(path), read_pins(path)


def read_pins(path: Path) -> tuple[bytes, ...]:
    """Read the certificates of one peer; blocks.

    Args:
        path: PEM certificates (RFC 7468), one after the other.

    Returns:
        Each certificate as DER; at least one.

    Raises:
        PeerError: the file cannot be read, or has no certificate or a broken one.
    """
    pins: list[bytes] = []
    try:
        with open_regular(path) as file:
            for line, block in pem_blocks(file):
                if isinstance(block, str):
                    raise _unusable(path, f"line {line}: {block}")
                read_validity(block)
                pins.append(block)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {words_of(error)}") from error
    except ValueError as error:
        raise _unusable(path, str(error)) from error
    if not pins:
        raise _unusable(path, "contains no certificate")
    return tuple(pins)


def _unusable(path: Path, detail: str) -> PeerError:
    return PeerError(detail, "operator", PeerStep.TRUST, file=path)
