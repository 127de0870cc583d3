"""A relay as a process: it forwards, takes up changes, survives kills, and stays small."""

import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.clock import ShiftedClock
from tests.support.daemon import Site, eventually, merge, open_daemon, replace
from tests.support.ports import free_port
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.tls_server import (
    Answer,
    Behaviour,
    Exchange,
    Peer,
    With,
    open_peer,
    server_context,
)

UPSTREAM = make_key_and_cert("upstream")
RENEWED = make_key_and_cert("upstream", serial=7)
NOWHERE = ConnectionInfo("127.0.0.1", 1, "rudder", "rudder", "none")


@dataclass
class Relay(Site):
    """The files of a relay that has no nodes list."""

    upstream: int = 0
    pin: SigningNode = field(default=UPSTREAM)
    password: str = "first password"
    general: str = ""

    def write(self) -> None:
        """Write the configuration and the pin, and no nodes list."""
        self.conf.mkdir(parents=True, exist_ok=True)
        (self.conf / "logging.conf").write_text('[general]\nlevel = "debug"\n')
        replace(self.root / "pin.pem", self.pin.cert_pem)
        self.write_conf()

    def tables(self) -> dict[str, str]:
        """Return what `main.conf` says."""
        tables = super().tables()
        del tables["output.database"]
        tables["general"] = merge(
            tables["general"], f'node_id = "relay"\nhttps_port = {self.upstream}\n{self.general}'
        )
        tables["processing.reporting"] = f'directory = "{self.root}/reports"\noutput = "upstream"'
        tables["processing.inventory"] = (
            f'directory = "{self.root}/inventories"\noutput = "upstream"'
        )
        tables["output.upstream"] = f"""
            host = "127.0.0.1"
            password = "{self.password}"
            server_certificate_file = "{self.root}/pin.pem"
        """
        return tables


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with open_peer(UPSTREAM) as running:
        yield running


@pytest.fixture
def relay(tmp_path: Path, peer: Peer) -> Relay:
    site = Relay(tmp_path, free_port(), NOWHERE, upstream=peer.port)
    site.incoming.mkdir(parents=True)
    site.write()
    return site


@pytest.mark.fault("F30", "F44")
async def test_a_relay_forwards_without_knowing_any_node(relay: Relay, peer: Peer) -> None:
    """With no nodes list, run logs of anybody go through; a reload and a stop go well.

    At the level debug a file has one line, which says what became of it.
    """
    relay.upload("before.log", b"before")
    async with open_daemon(relay) as daemon:
        await daemon.settled()
        begin = len(daemon.lines)
        relay.upload("2026-03-01T12:00:00+00:00@node1.log.gz", b"content")
        fields = "node=node1 .*bytes=7 age=[0-9.]+ took=[0-9.]+$"
        await daemon.saw(f"run log forwarded .*{fields}", since=begin)
        await daemon.settled()
        lines = [line for line in daemon.lines[begin:] if " access: " not in line]
        assert len(lines) == 1
        status, _ = await daemon.post("/rudder/relay-api/1/system/reload")
        assert status == 200
        assert await daemon.metric("rudder_relayd_reports_total", status="forward_ok") == 2
        assert await daemon.metric("rudder_relayd_upstream_up") == 1
        assert await daemon.stop() == 0
    assert sorted(body for _, body in peer.uploads) == [b"before", b"content"]


def memory_of(pid: int) -> int:
    """Resident memory of a process, KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError


async def test_an_idle_relay_is_small(relay: Relay) -> None:
    """A relay that only forwards has no library for databases or keys in it: it fits into 53 MB."""
    async with open_daemon(relay) as daemon:
        relay.upload("first.log", b"x")
        await daemon.settled()
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert "msgspec" in maps
        assert "asyncpg" not in maps
        assert "cryptography" not in maps
        assert memory_of(daemon.process.pid) * 1024 <= 53_000_000


@pytest.mark.fault("U13")
@pytest.mark.history(57)
async def test_a_new_certificate_of_the_upstream_counts_after_a_reload(
    relay: Relay, peer: Peer
) -> None:
    """The upstream renews its certificate: files wait until the pin is renewed and reloaded."""
    async with open_daemon(relay) as daemon:
        relay.upload("first.log", b"1")
        await daemon.settled()
        peer.behaviour = With(server_context(RENEWED))
        await peer.until(lambda: peer.open == 0)
        relay.upload("second.log", b"2")
        await daemon.saw("certificate is not the expected one|not the pinned one")
        assert relay.waiting() == ["second.log"]
        relay.pin = RENEWED
        relay.write()
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.settled()
    assert [body for _, body in peer.uploads] == [b"1", b"2"]


async def test_a_broken_pin_file_fails_the_reload_and_changes_nothing(
    relay: Relay, peer: Peer
) -> None:
    """A reload that finds no certificate says so; uploads go on with the former one."""
    async with open_daemon(relay) as daemon:
        replace(relay.root / "pin.pem", b"<html>")
        status, body = await daemon.post("/rudder/relay-api/1/system/reload")
        assert (status, b"pin.pem: contains no certificate" in body) == (500, True)
        relay.upload("first.log", b"1")
        await daemon.settled()


class Password(Behaviour):
    """Asks for a password."""

    def __init__(self, authorization: str) -> None:
        self.authorization = authorization

    async def serve(self, peer: Peer, exchange: Exchange) -> None:  # noqa: D102
        if exchange.headers["authorization"] == self.authorization:
            await super().serve(peer, exchange)
        else:
            await Answer(401).serve(peer, exchange)


@pytest.mark.fault("U6")
async def test_a_new_password_counts_after_a_reload(relay: Relay, peer: Peer) -> None:
    """Files that the upstream refuses for their password go through after it was changed."""
    peer.behaviour = Password("Basic cnVkZGVyOnNlY29uZA==")  # rudder:second
    async with open_daemon(relay) as daemon:
        relay.upload("first.log", b"1")
        await daemon.saw("file stays; will be retried.*answered 401")
        relay.password = "second"
        relay.write()
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.settled()
        assert "first password" not in "".join(daemon.lines)
        assert not daemon.lines_of("need a restart")


@pytest.mark.fault("U10")
async def test_killed_in_the_middle_of_uploads_nothing_is_lost(relay: Relay, peer: Peer) -> None:
    """After five kills under load every file has arrived whole, and the spool is empty."""
    files = {f"{number:04}.log": b"%d" % number * 5000 for number in range(400)}
    for name, body in files.items():
        relay.upload(name, body)
    for kills in range(1, 6):
        async with open_daemon(relay) as daemon:
            await peer.until(lambda kills=kills: len(peer.uploads) >= 20 * kills)  # type: ignore[misc]
            daemon.process.kill()
            await daemon.process.wait()
    async with open_daemon(relay) as daemon:
        await daemon.settled()
    arrived = {target.removeprefix("/reports/"): body for target, body in peer.uploads}
    assert arrived == files


async def command(relay: Relay, *words: str) -> str:
    """Run a command of relayd beside servers of this process; return what it prints."""
    line = [sys.executable, "-m", "relayd", *words, "-c", str(relay.conf)]
    return (await trio.run_process(line, capture_stdout=True)).stdout.decode()


async def test_pauses_outlive_kills_and_end_in_time_also_while_relayd_is_down(
    relay: Relay, peer: Peer, tmp_path: Path
) -> None:
    """After kills each kind of files is paused as before, until its time or until it is resumed."""
    clock = ShiftedClock(tmp_path)
    log, update = "2026-03-01T12:00:00+00:00@node1.log", "node1.ocs"
    (tmp_path / "inventories" / "incoming").mkdir(parents=True)
    async with open_daemon(relay, env=clock.env) as daemon:
        await command(relay, "pause", "reporting", "--for", "1h")
        await command(relay, "pause", "inventories")
        await daemon.stop(signal.SIGKILL)
    relay.upload(log, b"run log")
    relay.upload(f"../../inventories/incoming/{update}", b"inventory")
    async with open_daemon(relay, env=clock.env) as daemon:
        assert await daemon.metric("rudder_relayd_paused", kind="reporting") == 1
        assert "Paused by " in await command(relay, "status")
        await daemon.stop(signal.SIGKILL)
    assert not peer.uploads
    clock.set(2 * 3600)
    async with open_daemon(relay, env=clock.env) as daemon:
        await daemon.settled()
        assert [body for _, body in peer.uploads] == [b"run log"]
        assert await daemon.metric("rudder_relayd_paused", kind="reporting") == 0
        assert await daemon.metric("rudder_relayd_paused", kind="inventories") == 1
        await command(relay, "resume")
        await daemon.stop(signal.SIGKILL)
    async with open_daemon(relay, env=clock.env):
        await peer.until(lambda: b"inventory" in [body for _, body in peer.uploads])


@pytest.mark.fault("TLS8")
async def test_verification_that_is_switched_off_shows(relay: Relay, peer: Peer) -> None:
    """Without authentication of peers it works, with a warning at start and a metric."""
    relay.general = 'peer_authentication = "dangerous_none"'
    relay.write()
    (relay.root / "pin.pem").unlink()
    async with open_daemon(relay) as daemon:
        await daemon.saw("Certificate verification is disabled")
        assert await daemon.metric("rudder_relayd_peer_authentication_disabled") == 1
        relay.upload("first.log", b"1")
        await daemon.settled()
        await eventually(lambda: len(peer.uploads) == 1)


async def test_stopped_while_the_upstream_hangs_it_ends_within_seconds(
    relay: Relay, peer: Peer
) -> None:
    """A stop does not wait for an answer that does not come; the file stays."""

    class Hanging(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            await trio.sleep_forever()

    peer.behaviour = Hanging()
    async with open_daemon(relay) as daemon:
        relay.upload("first.log", b"1")
        await peer.until(lambda: len(peer.requests) == 1)
        with trio.fail_after(20):
            assert await daemon.stop() == 0
    assert relay.waiting() == ["first.log"]
