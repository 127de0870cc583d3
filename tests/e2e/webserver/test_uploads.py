"""Uploads of agents through the web server: what becomes rows, and what leaves no trace."""

import gzip
import signal
from pathlib import Path

import pytest

from tests.support.curl import USER
from tests.support.daemon import Daemon, Site, eventually, open_daemon
from tests.support.ledger import fleet
from tests.support.ports import free_port
from tests.support.postgres import Database
from tests.support.webserver import (
    INITIAL_PASSWORD,
    PASSWORD,
    Kind,
    Web,
    check_syntax,
    open_alone,
    open_web,
    write_web,
)

KNOWN = f"{USER}:{PASSWORD}"
ROWS = "SELECT count(*) FROM ruddersysevents"


@pytest.fixture
def front(kind: Kind, place: Path) -> Web:
    """Return a web server behind which nobody listens."""
    return write_web(Web(kind, place, free_port(), fleet()))


async def stored(daemon: Daemon) -> float:
    """Run logs that relayd has put into the database, duplicates too."""
    return await daemon.metric("rudder_relayd_reports_total", status="ok")


@pytest.mark.parametrize("kind", ["apache", "nginx"], indirect=True)
def test_configuration_is_valid(front: Web) -> None:
    """The web server finds nothing to say about the shipped configuration."""
    check_syntax(front)


@pytest.mark.history(5)
async def test_upload_ends_in_rows(web: Web, site: Site, database: Database) -> None:
    """A signed run log that curl uploads over TLS is processed once, and stored whole."""
    async with open_web(web), open_daemon(site) as daemon:
        reply = await web.upload(f"/reports/{site.name('node0')}", site.run_log("node0"))
        assert (reply.status, reply.exit_code) == (201, 0), web.log()
        await daemon.settled()
        assert await stored(daemon) == 1
        assert await daemon.metric("rudder_relayd_duplicates_total") == 0
    assert database.query(ROWS) == [("6",)]
    assert database.query("SELECT nodeid FROM reportsexecution") == [("node0",)]


async def test_upload_that_replaces_another(web: Web, site: Site, database: Database) -> None:
    """A run log with an odd name, uploaded again before relayd has seen it, goes in once."""
    name = f"{site.start().isoformat().replace('+', '%2B')}@node0.log.gz"
    data = gzip.compress(site.run_log("node0"))
    async with open_alone(web):
        assert (await web.upload(f"/reports/{name}", data[:100])).status == 201
        assert (await web.upload(f"/reports/{name}", data)).status == 204
    async with open_daemon(site) as daemon:
        await daemon.settled()
        assert await stored(daemon) == 1
    assert database.query(ROWS) == [("6",)]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_upload_cut_in_the_middle(
    web: Web, site: Site, database: Database, framing: str
) -> None:
    """A client that leaves in the middle of its upload leaves no file, and relayd does nothing."""
    name, data = site.name("node0"), site.run_log("node0", reports=4000)
    assert len(data) > 400_000
    temporary = web.own / "temporary" / "client_body"
    async with open_web(web), open_daemon(site) as daemon:
        stream = await web.begin_upload(f"/reports/{name}", data, framing)
        await eventually(lambda: bool(web.waiting()) or any(temporary.glob("*")))
        assert name not in web.waiting()
        await stream.transport_stream.aclose()
        await eventually(lambda: web.spool() == [])
        # Whatever relayd had taken before would be done when this one is.
        assert (await web.upload(f"/reports/{name}", data)).status == 201
        await daemon.settled()
        assert await stored(daemon) == 1
    assert database.query(ROWS) == [("4000",)]
    assert site.refused() == {}


@pytest.mark.history(3, 6)
@pytest.mark.parametrize("kind", ["apache"], indirect=True)
async def test_web_server_killed_during_an_upload(web: Web, site: Site, database: Database) -> None:
    """What a killed Apache leaves of an upload is no run log, and those after it get through."""
    name, data = site.name("node0"), site.run_log("node0", reports=4000)
    async with open_daemon(site) as daemon:
        async with open_web(web):
            stream = await web.begin_upload(f"/reports/{name}", data, "length")
            await eventually(lambda: bool(web.waiting()))
        await stream.transport_stream.aclose()
        (left,) = web.waiting()
        assert left.startswith(".davfs.tmp")
        async with open_web(web):
            assert (await web.upload(f"/reports/{name}", data)).status == 201
            await eventually(lambda: web.waiting() == [left])
        await daemon.idle()
        assert await stored(daemon) == 1
        assert await daemon.stop(signal.SIGTERM) == 0
    assert database.query(ROWS) == [("4000",)]


@pytest.mark.fault("D.2.6")
async def test_each_path_has_its_directory_and_its_password(front: Web) -> None:
    """Inventories of new nodes take the initial password, everything else takes the other one."""
    initial = f"{USER}:{INITIAL_PASSWORD}"
    async with open_web(front):
        for path, user, status in (
            ("/reports/a.log", KNOWN, 201),
            ("/reports/b.log", initial, 401),
            ("/reports/c.log", f"{USER}:wrong", 401),
            ("/reports/d.log", f"other:{PASSWORD}", 401),
            ("/inventories/a.ocs", initial, 201),
            ("/inventories/b.ocs", KNOWN, 401),
            ("/inventory-updates/a.ocs.gz", KNOWN, 201),
            ("/inventory-updates/b.ocs.gz", initial, 401),
        ):
            assert (await front.upload(path, b"content", user)).status == status, path
        refused = await front.curl("/reports/e.log", "-X", "PUT", "-d", "content")
    assert refused.status == 401
    assert front.spool() == [
        "inventories/accepted-nodes-updates/a.ocs.gz",
        "inventories/incoming/a.ocs",
        "reports/incoming/a.log",
    ]


NO_NAMES = (
    *("", ".hidden.log", ".davfs.tmpAbCdEf", "sub/x.log", "./x/y.log", "a%2Fb.log", "%00.log"),
    *("..%2Ffailed%2Fx.log", "%2e%2e/failed/x.log", "../failed/x.log", "..%5c..%5cx.log"),
    *("%2e%2e%2ffailed%2fx.log", "//etc/x.log", "x.log/", "%2ex.log", "a" * 300 + ".log"),
)


@pytest.mark.fault("D.2.6")
async def test_names_that_are_none(front: Web) -> None:
    """A name that is hidden, is a path or climbs out of the directory makes no file."""
    put = ("-X", "PUT", "--data-binary", "content")
    async with open_web(front):
        for name in NO_NAMES:
            reply = await front.curl(f"/reports/{name}", *put, user=KNOWN)
            assert reply.status >= 400, (name, reply)
            assert front.spool() == [], name


@pytest.mark.fault("D.2.6")
async def test_only_uploads(front: Web) -> None:
    """Who may upload may neither read, list, move nor remove, nor store a part of a file."""
    async with open_web(front):
        assert (await front.upload("/reports/x.log", b"content")).status == 201
        for path in ("/reports/x.log", "/reports/", "/reports"):
            for method in (
                *("GET", "POST", "DELETE", "OPTIONS", "PROPFIND", "PROPPATCH", "MKCOL", "COPY"),
                *("MOVE", "LOCK", "UNLOCK", "PATCH", "TRACE", "REPORT", "BREW"),
            ):
                destination = f"Destination: https://127.0.0.1:{front.port}/reports/y.log"
                reply = await front.curl(path, "-X", method, "-H", destination, user=KNOWN)
                assert 400 <= reply.status < 600, (method, path)
                assert "content" not in reply.body
            assert (await front.curl(path, "--head", user=KNOWN)).status in (403, 405)
        part = ("-X", "PUT", "-d", "part", "-H", "Content-Range: bytes 0-3/7")
        assert (await front.curl("/reports/y.log", *part, user=KNOWN)).status >= 400
        assert (await front.curl("/reports/x.log", *part, user=KNOWN)).status >= 400
    assert front.spool() == ["reports/incoming/x.log"]
    assert (front.incoming / "x.log").read_bytes() == b"content"


@pytest.mark.parametrize("kind", ["apache", "door"], indirect=True)
async def test_wrong_password_is_checked_before_the_method(front: Web) -> None:
    """A request without effect distinguishes a wrong password (401) from a right one (405)."""
    async with open_web(front):
        wrong = await front.curl("/reports/x.log", "--head", user=f"{USER}:wrong")
        right = await front.curl("/reports/x.log", "--head", user=KNOWN)
    assert (wrong.status, right.status) == (401, 405)


async def test_too_large_an_upload(front: Web) -> None:
    """A run log beyond 64 MiB is refused by its length, before its body is read."""
    async with open_web(front):
        # In HTTP/2 the wrong length itself would be the fault.
        put = ("--http1.1", "-X", "PUT", "-H", "Expect:", "-d", "x")
        size = f"Content-Length: {64 * 1024**2 + 1}"
        reply = await front.curl("/reports/x.log", *put, "-H", size, user=KNOWN)
    assert reply.status == 413
    assert front.spool() == []


async def test_only_tls_1_3(front: Web) -> None:
    """A client that speaks no more than TLS 1.2, or none at all, is not served."""
    async with open_web(front):
        assert (await front.curl("/reports/x.log", "--tls-max", "1.2", user=KNOWN)).status == 0
        assert (await front.curl("/reports/x.log", "--tlsv1.3", user=KNOWN)).status in (403, 405)
