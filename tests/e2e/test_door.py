"""A whole relayd that agents and relays reach without a web server."""

import random
import signal
import socket

import h11
import pytest
import trio

from tests.support.curl import USER
from tests.support.daemon import Site, eventually, open_daemon
from tests.support.front_door import basic, open_client
from tests.support.http import Client
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

    async def run(self, node_id: str) -> None:
        """Upload until cancelled; a connection that breaks is followed by another."""
        while True:
            try:
                async with open_client(self._web) as client:
                    await self._use(client, node_id)
            except (OSError, EOFError, h11.RemoteProtocolError, trio.BrokenResourceError):
                await trio.sleep(0.01)

    async def _use(self, client: Client, node_id: str) -> None:
        while True:
            number, self._next = self._next, self._next + 1
            data = self._site.run_log(node_id, number, reports=reports_of(number))
            self.sent.add((node_id, number))
            name = self._site.name(node_id, number).replace("+", "%2B")
            answer = await client.ask("PUT", f"/reports/{name}", data, KNOWN)
            if answer.status in (201, 204):
                self.answered.add((node_id, number))


async def campaign(web: Web, site: Site, database: Database, kills: int) -> None:
    """Kill relayd at random moments while agents upload."""
    uploaders, moments = Uploaders(web, site), random.Random(SEED)
    async with trio.open_nursery() as nursery:
        for node_id in site.nodes:
            nursery.start_soon(uploaders.run, node_id)
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


@pytest.mark.site(database=False, extra={"processing.reporting": 'output = "disabled"'})
async def test_reload_changes_certificate_nodes_and_passwords(web: Web, site: Site) -> None:
    """What changed on disk counts after a reload, for new connections, and none is lost."""
    added, fresh = make_key_and_cert("node9"), make_key_and_cert("fresh")
    async with open_daemon(site) as daemon, open_client(web, site.nodes["node0"]) as old:
        assert (await old.ask("GET", "/uuid")).body == b"root\n"
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
        (web.own / "front.priv").write_text("no key")
        status, body = await daemon.post("/rudder/relay-api/1/system/reload")
        assert (status, b"front.cert" in body) == (500, True)
        async with open_client(web, added) as new:
            assert (await new.ask("GET", "/uuid")).status == 200
        assert await daemon.stop() == 0
    assert sorted(site.waiting()) == ["x", "y"]


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
