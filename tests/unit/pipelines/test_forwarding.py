"""Forwarding, from files in the spool to an upstream on a real TLS socket."""

# ruff: noqa: D102 - an overridden method does what its base says

import base64
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import trio
from structlog.testing import capture_logs

from relayd.errors import PeerError
from relayd.outputs import health
from relayd.pipelines import forward
from relayd.pipelines import parcels as pairs
from relayd.pipelines.forwarding import REPORT_LANES
from relayd.runlog.filename import queue_id
from relayd.spool.reading import Opened, open_spool_files
from tests.support.forwarding import (
    DEFAULT_PASSWORD,
    HASTY,
    IMPATIENT,
    PASSWORD,
    USUAL,
    Pace,
    Relay,
)
from tests.support.signing import make_key_and_cert
from tests.support.tls_server import (
    Answer,
    Behaviour,
    Cut,
    Endless,
    Exchange,
    Peer,
    Raw,
    Silent,
    With,
    open_peer,
    server_context,
)

NODE = make_key_and_cert("upstream")
STRANGER = make_key_and_cert("stranger")
LOG = "2026-03-01T12:00:00+00:00@node1.log.gz"


def log_of(node: str, minute: int = 0) -> str:
    """The name of a node's run log."""
    return f"2026-03-01T12:{minute:02}:00+00:00@{node}.log.gz"


@asynccontextmanager
async def open_relay(root: Path, pace: Pace = USUAL) -> AsyncIterator[tuple[Relay, Peer]]:
    """An upstream and a relay that is not running yet."""
    async with open_peer(NODE) as peer:
        yield Relay(root, peer, NODE, pace), peer


def user_of(exchange: Exchange) -> str:
    """User and password of a request, as curl would take them."""
    return base64.b64decode(exchange.headers["authorization"].removeprefix("Basic ")).decode()


@pytest.mark.history(59, 60)
async def test_each_kind_of_file_goes_to_its_path_with_its_password(tmp_path: Path) -> None:
    """Run logs, new inventories and updates arrive byte for byte, every known extension of them."""
    async with open_relay(tmp_path) as (relay, peer):
        kinds = {
            relay.reports: ("reports", PASSWORD, ["a.log", "b.log.gz", "c.log.zip"]),
            relay.inventories: (
                "inventories",
                DEFAULT_PASSWORD,
                ["new.ocs.gz", "new.ocs.sign", "n.xml", "n.xml.sign"],
            ),
            relay.updates: ("inventory-updates", PASSWORD, ["k.ocs", "k.ocs.sign"]),
        }
        expected = set()
        for directory, (path, password, names) in kinds.items():
            for name in names:
                relay.arrive(directory, name, name.encode() * 999)
                expected.add((f"/{path}/{name}", name.encode() * 999, f"rudder:{password}"))
        (relay.reports / "x.tmp").write_bytes(b"not ours")
        async with relay.running():
            await relay.empty("x.tmp")
            got = [(t, b) for t, b in peer.uploads]
            users = [user_of(request) for request in peer.requests]
            assert {(t, b, u) for (t, b), u in zip(got, users, strict=True)} == expected
            assert relay.value("reports_total", status="forward_ok") == 3
            assert relay.value("inventories_total", status="forward_ok") == 6
            assert relay.value("upstream_up") == 1
        assert relay.failed() == []


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    "raw",
    [
        b"2026-03-01T12:00:00+02:00@node 1.log",
        b"a?b=c.log",
        b"a#b.log",
        b"%2e%2e%2f%00.log",
        b"a&b;c=d.log",
        "é\u2028ü.log".encode(),
        b"\xff\xfe.log",
        b"new\nline\x1b[31m.log",
        b"x" * 251 + b".log",
    ],
)
async def test_any_name_arrives_as_it_is(tmp_path: Path, raw: bytes) -> None:
    """A name of any bytes is percent-encoded so that the upstream decodes exactly these."""
    async with open_relay(tmp_path) as (relay, peer):
        (relay.reports / os.fsdecode(raw)).write_bytes(b"content")
        async with relay.running():
            await relay.empty()
        [(target, body)] = peer.uploads
        assert unquote_to_bytes(target.removeprefix("/reports/")) == raw
        assert body == b"content"
        assert target.isascii()
        assert not set(target) & set("?#")


async def test_files_that_come_later_and_newer_ones_of_a_name_are_sent(tmp_path: Path) -> None:
    """A file that replaces one which is just being sent is sent too."""

    class Replacing(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            body = await exchange.body()
            if body == b"old":
                relay.arrive(relay.reports, LOG, b"new")
            peer.store(exchange, body)
            await exchange.reply(201)

    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = Replacing()
        async with relay.running():
            relay.arrive(relay.reports, LOG, b"old")
            await peer.until(lambda: len(peer.uploads) == 2)
            await relay.empty()
        assert [body for _, body in peer.uploads] == [b"old", b"new"]


async def test_several_uploads_run_at_once_over_few_connections(tmp_path: Path) -> None:
    """While one upload waits for its answer others run, and connections are used again."""

    class Together(Behaviour):
        waiting = 0
        enough = trio.Event()

        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            self.waiting += 1
            if self.waiting >= 20:
                self.enough.set()
            with trio.fail_after(20):
                await self.enough.wait()
            await super().serve(peer, exchange)

    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = Together()
        for number in range(200):
            relay.arrive(relay.reports, log_of(f"node{number}"), b"%d" % number)
        async with relay.running():
            await relay.empty()
        assert len(peer.uploads) == 200
        assert peer.connections <= 40


async def test_few_run_logs_are_read_before_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While uploads hang, a bounded number of files is in memory; then all of them are sent."""
    real, read = open_spool_files, [0]

    async def counted(paths: Sequence[str], limiter: trio.CapacityLimiter) -> list[Opened]:
        read[0] += len(paths)
        return await real(paths, limiter)

    class Holding(Behaviour):
        go = trio.Event()

        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            await self.go.wait()
            await super().serve(peer, exchange)

    monkeypatch.setattr(forward, "open_spool_files", counted)
    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = holding = Holding()
        for number in range(300):
            relay.arrive(relay.reports, log_of(f"node{number}"), b"%d" % number)
        async with relay.running():
            await peer.until(lambda: len(peer.requests) == REPORT_LANES)
            await relay.until(lambda: read[0] > REPORT_LANES)
            assert read[0] <= REPORT_LANES + forward.AHEAD_MOST
            assert len(peer.requests) == REPORT_LANES
            holding.go.set()
            await relay.empty()
        assert sorted(body for _, body in peer.uploads) == sorted(b"%d" % n for n in range(300))


async def test_a_file_that_waited_is_sent_as_it_is_when_its_turn_comes(tmp_path: Path) -> None:
    """What was read before the upstream went away is not sent when a newer file has the name."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Cut("accept")
        async with relay.running():
            for number in range(100):
                relay.arrive(relay.reports, f"{number:03}.log", b"old")
            await peer.until(lambda: peer.connections >= 2 * REPORT_LANES)
            for number in range(100):
                relay.arrive(relay.reports, f"{number:03}.log", b"new")
            peer.behaviour = Behaviour()
            await relay.empty()
        assert dict(peer.uploads) == {f"/reports/{number:03}.log": b"new" for number in range(100)}
        # One file may have been under way, to find out whether the upstream is back.
        assert [body for _, body in peer.uploads].count(b"old") <= 1


@pytest.mark.fault("U14")
async def test_a_large_inventory_is_streamed(tmp_path: Path) -> None:
    """An inventory of 200 MB arrives whole, and memory grows by a few MB at most."""

    class Hashing(Behaviour):
        digest = ""

        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            self.digest = await exchange.digest()
            peer.store(exchange, b"")
            await exchange.reply(201)

    block = random.Random(1).randbytes(1 << 20)
    whole = hashlib.sha256()
    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = hashing = Hashing()
        scratch = tmp_path / "large"
        with scratch.open("wb") as file:
            for _ in range(200):
                whole.update(block)
                file.write(block)
        async with relay.running():
            relay.arrive(relay.updates, "small.xml", b"x", age=60)
            await relay.empty()
            before = memory()
            os.utime(scratch, (1, 1))
            scratch.rename(relay.updates / "large.ocs")
            await peer.until(lambda: len(peer.uploads) == 2)
            assert memory() - before < 8 * 1024
            await relay.empty()
        assert hashing.digest == whole.hexdigest()


def memory() -> int:
    """Resident memory of this process, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError


@pytest.mark.fault("S11", "D.3.2")
async def test_what_is_no_file_is_refused_and_never_sent(tmp_path: Path) -> None:
    """Links, a FIFO and a directory go to `failed`; what the links name is not sent."""
    async with open_relay(tmp_path) as (relay, peer):
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        (relay.reports / "link.log").symlink_to(secret)
        (relay.reports / "hard.log").hardlink_to(secret)
        os.mkfifo(relay.reports / "fifo.log")
        (relay.inventories / "directory.xml").mkdir()
        os.utime(relay.inventories / "directory.xml", (1, 1))
        async with relay.running():
            await relay.empty()
            assert relay.value("refused_total", reason="not_a_file") == 4
        assert peer.uploads == []
        assert [n for n in relay.failed() if not n.endswith(".reason")] == [
            "directory.xml",
            "fifo.log",
            "hard.log",
            "link.log",
        ]


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        *(
            pytest.param(Answer(status), f"answered {status}", marks=pytest.mark.fault("U4"))
            for status in (429, 500, 502, 503, 504, 507)
        ),
        *(
            pytest.param(Answer(status), f"answered {status}", marks=pytest.mark.fault("U5"))
            for status in (400, 409, 411, 413, 414, 415, 422)
        ),
        *(
            pytest.param(Answer(status), f"answered {status}", marks=pytest.mark.fault("U6"))
            for status in (401, 403, 404, 407)
        ),
        *(
            pytest.param(
                Answer(status, [("Location", "https://127.0.0.1:1/x")]),
                "redirects are not followed",
                marks=pytest.mark.fault("U7"),
            )
            for status in (301, 302, 303, 307, 308)
        ),
        pytest.param(Answer(304), "answered 304", marks=pytest.mark.fault("U8")),
        pytest.param(Answer(302), "answered 302", marks=pytest.mark.fault("U8")),
        pytest.param(Answer(202), "answered 202", marks=pytest.mark.fault("U9")),
        pytest.param(Answer(206), "answered 206", marks=pytest.mark.fault("U9")),
        pytest.param(Answer(207), "answered 207", marks=pytest.mark.fault("U9")),
        pytest.param(Cut("body"), "upstream", marks=pytest.mark.fault("U10")),
        pytest.param(Cut("stored"), "upstream", marks=pytest.mark.fault("U10")),
        pytest.param(Silent(), "did not answer in time", marks=pytest.mark.fault("U2")),
        pytest.param(Endless(b"", b"H"), "upstream", marks=pytest.mark.fault("U3")),
        pytest.param(Raw(b"nonsense\r\n\r\n"), "no valid answer", id="no HTTP"),
    ],
)
@pytest.mark.history(58)
async def test_a_file_that_is_turned_down_stays_and_is_sent_later(
    tmp_path: Path, behaviour: Behaviour, detail: str
) -> None:
    """Whatever the upstream says but 200, 201 and 204: the file stays and goes through later."""
    pace = IMPATIENT if isinstance(behaviour, (Silent, Endless)) else HASTY
    async with open_relay(tmp_path, pace) as (relay, peer):
        peer.behaviour = behaviour
        with capture_logs() as logs:
            async with relay.running():
                relay.arrive(relay.reports, LOG, b"content")
                await relay.until(lambda: relay.value("reports_total", status="forward_error") >= 2)
                assert relay.left() == [LOG]
                peer.behaviour = Behaviour()
                await relay.empty()
        assert peer.uploads[-1] == (f"/reports/{LOG}", b"content")
        assert relay.failed() == []
        lines = [line for line in logs if line["event"] == "file stays; will be retried"]
        assert detail in lines[0]["detail"]
        assert all(line["queue_id"] == queue_id(LOG) for line in lines)
        assert PASSWORD not in str(logs)


@pytest.mark.fault("U9")
@pytest.mark.parametrize("status", [200, 201, 204])
async def test_three_answers_mean_done(tmp_path: Path, status: int) -> None:
    """After 200, 201 or 204 the file leaves the spool, whatever the answer's body is."""
    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = Answer(status, body=b"" if status == 204 else b"x" * 100_000)
        async with relay.running():
            relay.arrive(relay.reports, LOG, b"content")
            await relay.empty()
        assert len(peer.requests) == 1


@pytest.mark.fault("U3")
async def test_an_answer_whose_body_never_ends_is_bounded(tmp_path: Path) -> None:
    """An endless body after a success is cut off; the file is done."""
    async with open_relay(tmp_path, IMPATIENT) as (relay, peer):
        peer.behaviour = Endless(b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n", b"x" * 999)
        async with relay.running():
            relay.arrive(relay.reports, LOG, b"content")
            await relay.empty()
            await peer.until(lambda: peer.open == 0)
        assert len(peer.requests) == 1


class Selective(Behaviour):
    """Turns files down by name."""

    def __init__(self, status: int, marker: str) -> None:
        self.status = status
        self.marker = marker
        self.counts: Counter[str] = Counter()

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        body = await exchange.body()
        self.counts[exchange.target] += 1
        if self.marker in exchange.target:
            await exchange.reply(self.status)
            return
        peer.store(exchange, body)
        await exchange.reply(201)


@pytest.mark.parametrize(
    ("status", "count"),
    [
        pytest.param(400, 150, marks=pytest.mark.fault("U5")),
        pytest.param(413, 150, marks=pytest.mark.fault("U5")),
        pytest.param(403, 150, marks=pytest.mark.fault("U6")),
        pytest.param(308, 150),
        pytest.param(503, 40),
    ],
)
async def test_files_that_are_turned_down_are_in_nobodys_way(
    tmp_path: Path, status: int, count: int
) -> None:
    """Old files that the upstream does not want hold up none of those that it takes."""
    async with open_relay(tmp_path) as (relay, peer):
        peer.behaviour = selective = Selective(status, "poison")
        for number in range(count):
            relay.arrive(relay.reports, f"{number:03}-poison.log", b"bad", age=500)
        for number in range(100):
            relay.arrive(relay.reports, f"{number:03}-good.log", b"good")
        async with relay.running():
            await peer.until(lambda: len(peer.uploads) == 100)
            relay.arrive(relay.reports, "later.log", b"good")
            await peer.until(lambda: len(peer.uploads) == 101)
        poison = [count for name, count in selective.counts.items() if "poison" in name]
        assert max(poison) <= 5
        assert len([name for name in relay.left() if "poison" in name]) == count


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(500, marks=pytest.mark.fault("U1")),
        pytest.param(
            100_000,
            marks=[pytest.mark.fault("U15"), pytest.mark.torture, pytest.mark.timeout(3600)],
        ),
    ],
)
async def test_an_upstream_that_is_away_is_asked_by_one_at_a_time(
    tmp_path: Path, count: int
) -> None:
    """While nobody answers, files wait untried; all get through once it is back, 50 a second."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Cut("accept")
        for number in range(count):
            relay.arrive(relay.reports, f"{number:04}.log", b"%d" % number)
        with capture_logs() as logs:
            async with relay.running():
                await peer.until(lambda: peer.connections >= 50)
                assert relay.value("upstream_up") == 0
                assert relay.value("reports_total", status="forward_error") == 0
                peer.behaviour = Behaviour()
                await relay.until(lambda: len(peer.uploads) >= count, patience=30 + count / 50)
                await relay.empty()
                assert relay.value("upstream_up") == 1
        assert sorted(peer.uploads) == sorted(
            (f"/reports/{number:04}.log", b"%d" % number) for number in range(count)
        )
        events = Counter(line["event"] for line in logs if line["log_level"] != "debug")
        assert events["output unavailable; files wait"] == 1
        assert 1 <= events["output available again"] <= 2
        assert events["file stays; will be retried"] == 0


async def test_an_upstream_that_turns_everything_down_is_not_stormed(tmp_path: Path) -> None:
    """When file after file is answered by 503, the others wait until one gets through."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Answer(503)
        for number in range(500):
            relay.arrive(relay.reports, f"{number:04}.log", b"%d" % number)
        async with relay.running():
            await peer.until(lambda: len(peer.requests) >= 60)
            # 32 at once at first, then one after the other.
            tried = {request.target for request in peer.requests}
            assert len(tried) <= len(peer.requests) <= 60 + 2
            assert relay.value("upstream_up") == 0
            peer.behaviour = Behaviour()
            await relay.empty()
        assert len(peer.uploads) == 500


@pytest.mark.fault("U4")
async def test_a_wait_that_the_upstream_asks_for_is_kept(tmp_path: Path) -> None:
    """A file that got `Retry-After: 2` is not sent again before two seconds have passed."""
    times: list[float] = []

    class Busy(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            times.append(trio.current_time())
            if len(times) == 1:
                await exchange.digest()
                await exchange.reply(503, [("Retry-After", "2")])
            else:
                await super().serve(peer, exchange)

    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Busy()
        async with relay.running():
            relay.arrive(relay.reports, LOG, b"content")
            await relay.empty()
    assert times[1] - times[0] >= 2


@pytest.mark.fault("U6")
@pytest.mark.history(60)
async def test_one_refused_password_does_not_hold_up_other_kinds(tmp_path: Path) -> None:
    """While new inventories are answered by 401, run logs go on; the operator is informed."""

    class Strict(Behaviour):
        async def serve(self, peer: Peer, exchange: Exchange) -> None:
            if exchange.target.startswith("/inventories/") and "wrong" in user_of(exchange):
                await exchange.digest()
                await exchange.reply(401)
            else:
                await super().serve(peer, exchange)

    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Strict()
        relay.passwords = (PASSWORD, "wrong")
        for number in range(50):
            relay.arrive(relay.inventories, f"{number}.xml", b"x", age=100)
            relay.arrive(relay.reports, f"{number}.log", b"x")
        with capture_logs() as logs:
            async with relay.running():
                await peer.until(lambda: len(peer.uploads) == 50)
                await relay.until(lambda: relay.value("upstream_up") == 0)
                relay.passwords = (PASSWORD, "right")
                relay.forwarding.reconfigure(relay.settings())
                await relay.empty()
        assert any(
            line["event"] == "output unavailable; files wait" and line["kind"] == "operator"
            for line in logs
        )
        assert "wrong" not in str(logs)


@pytest.mark.fault("U11", "TLS10")
async def test_a_stranger_in_the_upstreams_place_gets_nothing(tmp_path: Path) -> None:
    """No byte of HTTP reaches an upstream with another certificate; files wait for it."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = With(server_context(STRANGER))
        async with relay.running():
            for number in range(50):
                relay.arrive(relay.reports, f"{number}.log", b"x")
            await peer.until(lambda: peer.connections >= 10)
            assert (peer.http_bytes, peer.requests) == (0, [])
            assert relay.value("upstream_up") == 0
            peer.behaviour = Behaviour()
            await relay.empty()
        assert len(peer.uploads) == 50


async def test_an_idle_upstream_is_looked_at_while_somebody_reads_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gauge follows an upstream that goes away and comes back without a file in between."""
    monkeypatch.setattr(health, "LOOK_S", 0.05)

    async with open_relay(tmp_path, HASTY) as (relay, peer), relay.running():
        await relay.until(lambda: relay.value("upstream_up") == 1)
        peer.behaviour = With(server_context(STRANGER))
        await relay.until(lambda: relay.value("upstream_up") == 0)
        peer.behaviour = Behaviour()
        await relay.until(lambda: relay.value("upstream_up") == 1)
        assert peer.requests == []


@pytest.mark.fault("TLS4")
@pytest.mark.parametrize("text", [None, "", "<html><body>404</body></html>", "-----BEGIN CERTI"])
async def test_without_a_usable_pin_nothing_is_connected_to(
    tmp_path: Path, text: str | None
) -> None:
    """A pin file that is missing, empty or none keeps the files here, until it is there."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        relay.pins.unlink()
        if text is not None:
            relay.pins.write_text(text)
        with capture_logs() as logs:
            async with relay.running():
                relay.arrive(relay.reports, LOG, b"content")
                await relay.until(lambda: any("cannot be loaded" in line["event"] for line in logs))
                with pytest.raises(PeerError, match=str(relay.pins)):
                    await relay.peers.read_upstream()
                await relay.until(lambda: relay.value("upstream_up") == 0)
                assert (peer.connections, relay.left()) == (0, [LOG])
                relay.pins.write_bytes(NODE.cert_pem)
                await relay.empty()
        assert len(peer.uploads) == 1


async def test_stopping_leaves_unsent_files_in_the_spool(tmp_path: Path) -> None:
    """A stop while the upstream is away ends it, and the next start sends everything."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Cut("accept")
        for number in range(100):
            relay.arrive(relay.reports, f"{number:03}.log", b"%d" % number)
        async with relay.running():
            await peer.until(lambda: peer.connections >= 5)
        assert len(relay.left()) == 100
        peer.behaviour = Behaviour()
        async with relay.running():
            await relay.empty()
        assert len({target for target, _ in peer.uploads}) == 100


async def test_a_file_that_was_sent_but_cannot_be_removed_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the spool cannot be changed, a file that the upstream has is not uploaded again."""
    real = os.unlink
    broken, attempts = [True], [0]

    def unlink(path: str) -> None:
        if broken[0] and path.endswith(LOG):
            attempts[0] += 1
            raise PermissionError(13, "Permission denied", path)
        real(path)

    async with open_relay(tmp_path, HASTY) as (relay, peer):
        async with relay.running():
            monkeypatch.setattr(os, "unlink", unlink)
            relay.arrive(relay.reports, LOG, b"content")
            await peer.until(lambda: len(peer.uploads) == 1)
            await relay.until(lambda: attempts[0] >= 4)
            broken[0] = False
            await relay.empty()
        assert len(peer.uploads) == 1


@pytest.mark.parametrize(
    ("inventory", "signature"),
    [
        ("n.ocs", "n.ocs.sign"),
        ("n.ocs.gz", "n.ocs.sign"),
        ("n.ocs.gz", "n.ocs.gz.sign"),
        ("n.ocs.gz", "n.ocs.sign.gz"),
        ("n.xml", "n.xml.sign"),
    ],
)
@pytest.mark.parametrize("first", ["inventory", "signature"])
async def test_an_inventory_goes_after_its_signature(
    tmp_path: Path,
    inventory: str,
    signature: str,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever comes first, the signature is sent before the inventory, and both at once."""
    monkeypatch.setattr(pairs, "PATIENCE_S", 60.0)
    async with open_relay(tmp_path) as (relay, peer):
        names = [inventory, signature] if first == "inventory" else [signature, inventory]
        async with relay.running():
            for name in names:
                relay.arrive(relay.inventories, name, name.encode())
            with trio.fail_after(pairs.PATIENCE_S / 2):
                await relay.empty()
        assert [target for target, _ in peer.uploads] == [
            f"/inventories/{signature}",
            f"/inventories/{inventory}",
        ]


@pytest.mark.parametrize("name", ["n.ocs", "n.ocs.sign"])
async def test_half_a_pair_waits_and_then_goes_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose partner does not come is sent once it has waited for it."""
    monkeypatch.setattr(pairs, "PATIENCE_S", 1.0)
    async with open_relay(tmp_path) as (relay, peer):
        async with relay.running():
            came = trio.current_time()
            relay.arrive(relay.inventories, name, b"x")
            await relay.empty()
            assert trio.current_time() - came > 0.9
        assert len(peer.uploads) == 1


@pytest.mark.fault("F65")
async def test_inventory_is_not_kept_waiting_by_its_age_on_the_way(tmp_path: Path) -> None:
    """An inventory without a signature that is older goes at once, a hidden one too."""
    async with open_relay(tmp_path) as (relay, peer):
        for name in (".n.ocs", "m.ocs.gz", ".davfs.tmp01AbCd"):
            path = relay.inventories / name
            path.write_bytes(b"x")
            os.utime(path, (time.time() - pairs.PATIENCE_S,) * 2)
        async with relay.running():
            await relay.empty(".davfs.tmp01AbCd")
        targets = sorted(target for target, _ in peer.uploads)
        assert targets == ["/inventories/.n.ocs", "/inventories/m.ocs.gz"]


@pytest.mark.fault("F65")
def test_patience_with_a_signature_is_short() -> None:
    """What no signature may ever follow waits for one as long as an agent takes, no longer."""
    assert pairs.PATIENCE_S <= 1.0


async def test_a_pair_leaves_the_spool_together(tmp_path: Path) -> None:
    """While the inventory is turned down its signature stays too, though the upstream has it."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Selective(503, "n.ocs.gz")
        async with relay.running():
            relay.arrive(relay.updates, "n.ocs.gz", b"inventory")
            relay.arrive(relay.updates, "n.ocs.sign", b"signature")
            await relay.until(lambda: relay.value("inventories_total", status="forward_error") >= 4)
            assert relay.left() == ["n.ocs.gz", "n.ocs.sign"]
            peer.behaviour = Behaviour()
            await relay.empty()
        assert peer.uploads[-2:] == [
            ("/inventory-updates/n.ocs.sign", b"signature"),
            ("/inventory-updates/n.ocs.gz", b"inventory"),
        ]


async def test_what_was_turned_down_for_too_long_is_given_up_with_a_reason(tmp_path: Path) -> None:
    """An old file is tried once more, and then moved to `failed` as expired."""
    async with open_relay(tmp_path, HASTY) as (relay, peer):
        peer.behaviour = Answer(403)
        relay.arrive(relay.reports, LOG, b"content", age=8 * 86400)
        async with relay.running():
            await relay.empty()
            assert relay.value("refused_total", reason="expired") == 1
        assert relay.failed() == [LOG, f"{LOG}.reason"]
        assert len(peer.requests) == 1
