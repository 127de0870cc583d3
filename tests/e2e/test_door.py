"""A whole relayd that agents and relays reach without a web server."""

import random
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import h11
import pytest
import trio

from tests.support.curl import USER
from tests.support.daemon import Site, eventually, open_daemon
from tests.support.front_door import basic, client_context, open_client
from tests.support.http import Client
from tests.support.http2 import HEADERS, PREFACE, SETTINGS, Http2Client, frame, known, open_http2
from tests.support.ledger import SEED
from tests.support.ports import free_port
from tests.support.postgres import Database
from tests.support.signing import make_key_and_cert
from tests.support.stored import stored_executions, stored_rows
from tests.support.webserver import PASSWORD, Web, write_web

KNOWN = basic(f"{USER}:{PASSWORD}")


@pytest.fixture
def web(site: Site) -> Web:
    """Return the front door of the site."""
    return write_web(Web("door", site.root, free_port(), site.nodes), site)


class Uploaders:
    """Agents that upload one run log after the other, and note which were answered."""

    def __init__(self, web: Web, site: Site) -> None:
        self._web = web
        self._site = site
        self._next = 0
        self.sent: set[tuple[str, int]] = set()
        self.answered: set[tuple[str, int]] = set()

    async def run(self, node_id: str, *, http2: bool) -> None:
        """Upload until cancelled; a connection that breaks is followed by another."""
        while True:
            try:
                if http2:
                    async with open_http2(self._web) as multiplexed:
                        await self._use(partial(_put_http2, multiplexed), node_id)
                else:
                    async with open_client(self._web) as client:
                        await self._use(partial(_put, client), node_id)
            except (OSError, EOFError, h11.RemoteProtocolError, trio.BrokenResourceError):
                await trio.sleep(0.01)

    async def _use(self, put: Callable[[str, bytes], Awaitable[int]], node_id: str) -> None:
        while True:
            number, self._next = self._next, self._next + 1
            data = self._site.run_log(node_id, number, reports=reports_of(number))
            self.sent.add((node_id, number))
            name = self._site.name(node_id, number).replace("+", "%2B")
            if await put(f"/reports/{name}", data) in (201, 204):
                self.answered.add((node_id, number))


async def _put(client: Client, path: str, data: bytes) -> int:
    return (await client.ask("PUT", path, data, KNOWN)).status


async def _put_http2(client: Http2Client, path: str, data: bytes) -> int:
    reply = await client.ask("PUT", path, data, [known(PASSWORD)])
    if client.closed and not reply.whole:
        raise EOFError("closed without an answer")
    return reply.status


def memory_of(pid: int) -> int:
    """Return the resident memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


async def campaign(web: Web, site: Site, database: Database, kills: int) -> None:
    """Kill relayd at random moments while agents upload."""
    uploaders, moments = Uploaders(web, site), random.Random(SEED)
    async with trio.open_nursery() as nursery:
        for number, node_id in enumerate(site.nodes):
            nursery.start_soon(partial(uploaders.run, node_id, http2=number % 2 == 1))
        for _ in range(kills):
            async with open_daemon(site) as daemon:
                await trio.sleep(moments.uniform(0.05, 0.6))
                assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        nursery.cancel_scope.cancel()
    async with open_daemon(site) as daemon:
        await daemon.settled()
        assert await daemon.stop() == 0
    rows = stored_rows(database.query)
    assert set() < uploaders.answered <= set(rows) <= uploaders.sent
    assert rows == {run: reports_of(run[1]) for run in rows}
    assert stored_executions(database.query) == dict.fromkeys(rows, 1)
    assert site.refused() == {}


def reports_of(number: int) -> int:
    """Return the reports of a run log: every other one is large enough for several writes."""
    return 6 if number % 2 else 900


@pytest.mark.fault("L6")
async def test_killed_during_uploads(web: Web, site: Site, database: Database) -> None:
    """Every upload that was answered is stored whole and once, and nothing else is left."""
    await campaign(web, site, database, 4)


@pytest.mark.torture
@pytest.mark.fault("L6")
async def test_killed_during_uploads_100_times(web: Web, site: Site, database: Database) -> None:
    """The same after 100 kills."""
    await campaign(web, site, database, 100)


#: Addresses of clients that mean harm, none of which may upload.
ATTACKERS: Final = [f"127.0.1.{number}" for number in range(1, 11)]
#: What they begin with: nothing, half of a greeting, something else, half of a head.
BEGINNINGS: Final = (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n" * 50)
HALF_HEADS: Final = {
    "http/1.1": b"PUT /reports/x HTTP/1.1\r\nHost: x\r\nX: ",
    "h2": PREFACE + frame(SETTINGS) + frame(HEADERS, b"\x82\x84", 1),
}
#: MB that the 800 of them that are kept may take; 42 was measured.
ATTACK_MB: Final = 64


@pytest.mark.fault("A1", "A5")
@pytest.mark.site(
    database=False,
    extra={
        "processing.reporting": 'output = "disabled"',
        "server": "max_connections = 800\nmax_connections_per_address = 100",
    },
)
async def test_a_thousand_connections_without_a_request(web: Web, site: Site) -> None:
    """Idle connections, junk and unfinished heads of both versions take little memory each.

    Beyond the limits the oldest ones make way, so agents are served all the time.
    """
    async with open_daemon(site) as daemon, AsyncExitStack() as stack:
        for _ in range(2):
            await serves(web)
        before = memory_of(daemon.process.pid)

        async def attack(source: str, number: int) -> None:
            plain = await trio.open_tcp_stream(web.host, web.port, local_address=source)
            stack.push_async_callback(trio.aclose_forcefully, plain)
            with suppress(trio.BrokenResourceError):
                if number % 8 == 7:
                    version = "h2" if number % 16 == 7 else "http/1.1"
                    context = client_context(web)
                    context.set_alpn_protocols([version])
                    tls = trio.SSLStream(plain, context, https_compatible=True)
                    await tls.send_all(HALF_HEADS[version])
                else:
                    await plain.send_all(BEGINNINGS[number % 3])

        for number in range(100):
            async with trio.open_nursery() as nursery:
                for source in ATTACKERS:
                    nursery.start_soon(attack, source, number)
            if number % 25 == 24:
                await serves(web)
        assert (memory_of(daemon.process.pid) - before) / 1000 <= ATTACK_MB
    assert len(site.waiting()) == 12


async def serves(web: Web) -> None:
    """Fail unless an agent is served, over both versions of HTTP."""
    async with open_client(web) as client:
        name = secrets.token_hex(4)
        assert (await client.ask("PUT", f"/reports/{name}", b"x", KNOWN)).status == 201
    async with open_http2(web) as http2:
        header = known(PASSWORD)
        assert (await http2.ask("PUT", f"/reports/{name}.2", b"x", [header])).status == 201


@pytest.mark.site(database=False, extra={"processing.reporting": 'output = "disabled"'})
async def test_reload_changes_certificate_nodes_and_passwords(web: Web, site: Site) -> None:
    """What changed on disk counts after a reload, for new connections, and none is lost."""
    added, fresh = make_key_and_cert("node9"), make_key_and_cert("fresh")
    async with (
        open_daemon(site) as daemon,
        open_client(web, site.nodes["node0"]) as old,
        open_client(web, site.nodes["node0"]) as busy,
        open_http2(web, site.nodes["node0"]) as http2,
    ):
        assert (await old.ask("GET", "/uuid")).body == b"root\n"
        await busy.send(b"PUT /reports/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        number = await http2.begin("PUT", "/reports/2")
        await http2.send_body(number, b"12345", end=False)
        site.nodes["node9"] = added
        site.write_nodes(site.nodes)
        cert, key = fresh.write(web.own)
        cert.rename(web.own / "front.cert")
        key.rename(web.own / "front.priv")
        assert (await daemon.post("/rudder/relay-api/1/system/reload"))[0] == 200
        async with open_client(web, added) as new:
            assert (await new.ask("PUT", "/reports/x", b"x")).status == 201
            assert isinstance(new.stream, trio.SSLStream)
            assert new.stream.getpeercert(binary_form=True) == fresh.cert_der
        assert (await old.ask("PUT", "/reports/y", b"y")).status == 201
        await busy.send(b"67890")
        assert (await busy.answer("PUT")).status == 201
        await http2.send_body(number, b"67890")
        assert (await http2.answer(number)).status == 201
        (web.own / "front.priv").write_text("no key")
        status, body = await daemon.post("/rudder/relay-api/1/system/reload")
        assert (status, b"front.cert" in body) == (500, True)
        async with open_client(web, added) as new:
            assert (await new.ask("GET", "/uuid")).status == 200
        assert await daemon.stop() == 0
    assert sorted(site.waiting()) == ["1", "2", "x", "y"]
    assert {(web.incoming / name).read_bytes() for name in ("1", "2")} == {b"1234567890"}


def passing(sock: socket.socket) -> tuple[str, ...]:
    """Return a command that passes a socket to another one as systemd does: sd_listen_fds(3)."""
    number = sock.fileno()
    script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{number} {number}<&-'
    return ("bash", "-c", script, "bash")


@pytest.mark.site(database=False, extra={"processing.reporting": 'output = "disabled"'})
async def test_a_restart_with_passed_sockets_refuses_nobody(web: Web, site: Site) -> None:
    """While relayd restarts, uploads wait in a socket of the service manager: all are stored."""
    restarts, uploads = 3, 0
    listener = socket.create_server((web.host, web.port), backlog=1024)
    command, number = passing(listener), listener.fileno()

    async def upload(version: str) -> None:
        nonlocal uploads
        while True:
            name, uploads = uploads, uploads + 1
            reply = await web.curl(
                f"/reports/{name}", version, "-X", "PUT", "-d", "x", user=f"{USER}:{PASSWORD}"
            )
            assert (reply.status, reply.exit_code) == (201, 0)

    with listener:
        async with trio.open_nursery() as nursery:
            for version in ("--http1.1", "--http2") * 2:
                nursery.start_soon(upload, version)
            for _ in range(restarts):
                async with open_daemon(site, wrapper=command, pass_fds=(number,)) as daemon:
                    enough = uploads + 10
                    await eventually(lambda: uploads >= enough)  # noqa: B023 - ends before the next
                    assert await daemon.stop() == 0
            nursery.cancel_scope.cancel()


@pytest.mark.site(database=False, extra={"processing.reporting": 'output = "disabled"'})
async def test_first_connection_starts_relayd(web: Web, site: Site) -> None:
    """The program of systemd passes its socket when somebody connects, who is then served."""
    command = ("systemd-socket-activate", "-l", f"{web.host}:{web.port}", "--fdname=door")
    async with open_daemon(site, wrapper=command, ready=None) as daemon:
        await daemon.saw("Listening on")
        file = web.own / "file"
        file.write_bytes(b"content")
        reply = await web.curl("/reports/x", "--upload-file", str(file), user=f"{USER}:{PASSWORD}")
        assert reply.status == 201
        environment = f"/proc/{daemon.process.pid}/environ"
        assert b"LISTEN_FDS=1" in await trio.Path(environment).read_bytes()  # of its start
        assert await daemon.stop() == 0


@pytest.mark.site(database=False, extra={"processing.reporting": 'output = "disabled"'})
@pytest.mark.parametrize("fault", ["certificate", "port", "socket"])
async def test_start_fails_with_the_cause(web: Web, site: Site, fault: str) -> None:
    """Without its certificate, port or socket relayd does not start, and says why."""
    occupied = await trio.open_tcp_listeners(web.port, host=web.host) if fault == "port" else []
    if fault == "certificate":
        (web.own / "front.cert").unlink()
    other = socket.create_server((web.host, 0))
    wrapper = passing(other) if fault == "socket" else ()
    async with open_daemon(site, ready=None, wrapper=wrapper, pass_fds=(other.fileno(),)) as daemon:
        await daemon.ended.wait()
        assert await daemon.process.wait() == (3 if fault == "socket" else 75)
    other.close()
    words = {"certificate": "cannot read", "port": "cannot listen", "socket": "passes no socket"}
    assert daemon.lines_of(words[fault])
    for listener in occupied:
        await listener.aclose()
