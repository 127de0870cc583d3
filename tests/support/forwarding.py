"""A relay's forwarding in this process: real spool, real TLS, an upstream that can misbehave."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relayd.config.main_conf import Settings, load_settings
from relayd.fleet.peers import client as client_module
from relayd.fleet.pins import PinnedClients
from relayd.outputs.upstream import gate
from relayd.outputs.upstream import uploads as upstream
from relayd.pipelines.forwarding import Forwarding, open_forwarding
from relayd.spool import pending
from relayd.telemetry.metrics import Metrics
from tests.support.signing import SigningNode
from tests.support.tls_server import Peer

PASSWORD = "relay's own password"
DEFAULT_PASSWORD = "everybody's password"


def hasten(monkeypatch: pytest.MonkeyPatch, factor: float = 0.02) -> None:
    """Lets all delays and deadlines of forwarding pass faster."""
    for module, name in (
        (pending, "FIRST_DELAY_S"),
        (client_module, "CONNECT_TIMEOUT_S"),
        (upstream, "BASE_TIMEOUT_S"),
        (upstream, "PATIENCE_S"),
        (upstream, "DRAIN_TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) * factor)
    monkeypatch.setattr(pending, "LONGEST_DELAY_S", 1.0)
    for name in ("UNREACHED_DELAYS_S", "BUSY_DELAYS_S", "OPERATOR_DELAYS_S"):
        monkeypatch.setattr(gate, name, (0.02, 0.05))


class Relay:
    """A relay's files, and its forwarding while it runs.

    Attributes:
        metrics: of what runs now.
        forwarding: what runs now.
        peers: likewise.
    """

    def __init__(self, root: Path, peer: Peer, pin: SigningNode) -> None:
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
        """Written to a file and read, as the daemon does."""
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
        """A file comes as the web server makes it come, written a while ago."""
        scratch = directory / f".davfs.tmp{name[:4]}"
        scratch.write_bytes(body)
        if age:
            then = time.time() - age
            os.utime(scratch, (then, then))
        return scratch.rename(directory / name)

    def left(self) -> list[str]:
        """Names that are still in the watched directories."""
        places = (self.reports, self.inventories, self.updates)
        return sorted(path.name for place in places for path in place.iterdir())

    def failed(self) -> list[str]:
        """Names in both `failed`."""
        places = (self.root / "reports" / "failed", self.root / "inventories" / "failed")
        return sorted(p.name for place in places if place.exists() for p in place.iterdir())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Forwards until the block ends; then it must stop by itself within seconds."""
        settings = self.settings()
        self.metrics = Metrics()
        self.peers = PinnedClients(settings, self.metrics)
        stop = trio.Event()
        async with open_forwarding(settings, self.peers, self.metrics) as forwarding:
            self.forwarding: Forwarding = forwarding
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.peers.run, forwarding.wake)
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

    async def until(self, condition: Callable[[], bool], patience: float = 30.0) -> None:
        """Waits until something holds of the spool; nothing tells when files leave it."""
        with trio.fail_after(patience):
            while not condition():
                await trio.sleep(0.01)

    async def empty(self) -> None:
        """Waits until nothing is left in the watched directories."""
        await self.until(lambda: not self.left())

    def value(self, name: str, **labels: str) -> float:
        """A number of the metrics page."""
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"rudder_relayd_{name}" + (f"{{{text}}}" if text else "") + " "
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(wanted):
                return float(line.rpartition(" ")[2])
        raise KeyError(wanted)
