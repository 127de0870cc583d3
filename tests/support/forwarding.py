"""A relay's forwarding in this process: real spool, real TLS, an upstream that can misbehave."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from relayd.config.main_conf import Settings, load_settings
from relayd.fleet.peers.client import CONNECT_TIMEOUT_S
from relayd.fleet.pins import PinnedClients
from relayd.outputs.upstream.uploads import PATIENCE, UploadPatience
from relayd.pipelines.forwarding import ForwardingPipeline, open_forwarding
from relayd.system.delays import DELAYS, Delays, Doubling, Steps
from relayd.telemetry.metrics import Metrics
from tests.support import metrics
from tests.support.signing import SigningNode

PASSWORD = "relay's own password"
DEFAULT_PASSWORD = "everybody's password"


class Pace(msgspec.Struct, frozen=True):
    """How long a relay waits, for what.

    Attributes:
        delays: between attempts.
        patience: for uploads.
        connect: seconds for a connection.
    """

    delays: Delays = DELAYS
    patience: UploadPatience = PATIENCE
    connect: float = CONNECT_TIMEOUT_S


USUAL = Pace()
_SOON = Steps((0.02, 0.05))
#: Short delays. Deadlines stay, however slow this machine is.
HASTY = Pace(
    Delays(
        file=Doubling(0.02, 1.0),
        upstream_failing=_SOON,
        upstream_unreachable=_SOON,
        upstream_operator=_SOON,
        pins=Steps((0.05,)),
    )
)
#: Short deadlines too, for an upstream that does not answer.
IMPATIENT = Pace(HASTY.delays, UploadPatience(0.5, 0.5, drain=0.05), connect=0.5)


class Listener(Protocol):
    """An upstream, or what is in front of one."""

    @property
    def port(self) -> int:
        """Its TCP port on 127.0.0.1."""


class Relay:
    """A relay's files, and its forwarding while it runs.

    Attributes:
        metrics: of what runs now.
        forwarding: what runs now.
        peers: likewise.
    """

    def __init__(self, root: Path, peer: Listener, pin: SigningNode, pace: Pace = USUAL) -> None:
        self._pace = pace
        self.root = root
        self.conf = root / "etc"
        self.pins = root / "policy_server.pem"
        self.reports = root / "reports" / "incoming"
        self.inventories = root / "inventories" / "incoming"
        self.updates = root / "inventories" / "accepted-nodes-updates"
        self.more = ""
        self.passwords = (PASSWORD, DEFAULT_PASSWORD)
        self._peer = peer
        self.conf.mkdir()
        self.pins.write_bytes(pin.cert_pem)
        for directory in (self.reports, self.inventories, self.updates):
            directory.mkdir(parents=True)

    def settings(self) -> Settings:
        """Write the configuration and return what the daemon reads of it."""
        path = self.conf / "main.conf"
        path.write_text(
            f"""
            [general]
            node_id = "relay"
            https_port = {self._peer.port}
            [processing.reporting]
            directory = "{self.root}/reports"
            output = "upstream"
            [processing.inventory]
            directory = "{self.root}/inventories"
            output = "upstream"
            [output.upstream]
            host = "127.0.0.1"
            password = "{self.passwords[0]}"
            default_password = "{self.passwords[1]}"
            server_certificate_file = "{self.pins}"
            {self.more}
            """
        )
        path.chmod(0o640)
        return load_settings(self.conf)[0]

    def arrive(self, directory: Path, name: str, body: bytes, age: float = 0.0) -> Path:
        """Upload a file as the web server does; its content was written `age` seconds ago."""
        scratch = directory / f".davfs.tmp{name[:4]}"
        scratch.write_bytes(body)
        if age:
            then = time.time() - age
            os.utime(scratch, (then, then))
        return scratch.rename(directory / name)

    def left(self) -> list[str]:
        """Return the names that are still in the watched directories."""
        places = (self.reports, self.inventories, self.updates)
        return sorted(path.name for place in places for path in place.iterdir())

    def failed(self) -> list[str]:
        """Return the names in both `failed`."""
        places = (self.root / "reports" / "failed", self.root / "inventories" / "failed")
        return sorted(p.name for place in places if place.exists() for p in place.iterdir())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Forwards until the block ends; then it must stop by itself within seconds."""
        settings, pace = self.settings(), self._pace
        self.metrics = Metrics()
        self.peers = PinnedClients(
            settings, self.metrics, pace.delays.pins, connect_timeout=pace.connect
        )
        stop = trio.Event()
        async with open_forwarding(
            settings, self.peers, self.metrics, pace.delays, pace.patience
        ) as forwarding:
            self.forwarding: ForwardingPipeline = forwarding
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.peers.run, partial(forwarding.wake, "pins"))
                async with trio.open_nursery() as work:
                    work.start_soon(forwarding.run, stop)
                    try:
                        yield self
                    except BaseException:
                        nursery.cancel_scope.cancel()
                        raise
                    stop.set()
                    work.cancel_scope.deadline = trio.current_time() + 20
                nursery.cancel_scope.cancel()
        await self.peers.clients.aclose()

    async def until(self, condition: Callable[[], bool], patience: float = 60.0) -> None:
        """Wait until a condition holds; leaving the spool sends no event."""
        with trio.fail_after(patience):
            while not condition():
                await trio.sleep(0.01)

    async def empty(self, *left: str, patience: float = 60.0) -> None:
        """Wait until every file but these is sent or refused, and is counted."""
        await self.until(lambda: self.left() == [*left] and not self._in_flight(), patience)

    def _in_flight(self) -> float:
        # A file leaves the spool in a thread, before it is counted.
        [gauge] = self.metrics.in_flight.collect()
        return gauge.samples[0].value

    def value(self, name: str, **labels: str) -> float:
        """Return a number of the metrics page."""
        return metrics.value(self.metrics.render(), f"rudder_relayd_{name}", **labels)
