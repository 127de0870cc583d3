"""The demo's web server: uploads into the spool, requests forwarded to relayd's API."""

import errno
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from relayd.commands.demo.webserver.files import status_of
from relayd.commands.demo.webserver.server import WebServer
from relayd.config.main_conf import Listen
from tests.support.front import (
    DEFAULT_PASSWORD,
    PASSWORD,
    basic,
    client_context,
    dial_front,
    make_front,
    open_front,
)
from tests.support.http import Answer, Client, Server, open_server
from tests.support.raw_http import SMUGGLING

BASE = "/rudder/relay-api/1"


GOOD = basic(PASSWORD)


def stored(web: WebServer, segment: str) -> dict[str, bytes]:
    """Return names and content of the files in a directory, including temporary ones."""
    directory = web.uploads[segment].directory
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def ask(
    web: WebServer, method: str, path: str, body: bytes = b"", headers: str = GOOD
) -> Answer:
    """Send one request on its own connection."""
    async with dial_front(web) as client:
        return await client.ask(method, path, body, headers)


async def test_uploads_become_files(tmp_path: Path) -> None:
    """Each of the three paths has its directory; a new file is 201, a replaced one 204."""
    web = make_front(tmp_path)
    async with open_front(web), dial_front(web) as client:
        for segment, password in (
            ("reports", PASSWORD),
            ("inventories", DEFAULT_PASSWORD),
            ("inventory-updates", PASSWORD),
        ):
            for body, status in ((b"one" * 50_000, 201), (b"two", 204)):
                path = f"/{segment}/2026-03-01T12:00:00+00:00@node%201.log"
                answer = await client.ask("PUT", path, body, basic(password))
                assert answer.status == status
            assert stored(web, segment) == {"2026-03-01T12:00:00+00:00@node 1.log": b"two"}


async def test_invalid_names_are_refused(tmp_path: Path) -> None:
    """A name is one segment, decoded once; names that could mean anything else are refused."""
    web = make_front(tmp_path)
    async with open_front(web):
        for name in (
            "..%2fx.log",
            "a%2Fx.log",
            "a/x.log",
            "..",
            "%2e%2e",
            "%2e",
            "",
            "x%00.log",
            ".davfs.tmp123456",
            "x" * 256,
        ):
            answer = await ask(web, "PUT", f"/reports/{name}", b"x")
            assert answer.status == 400, name
        assert (await ask(web, "PUT", "/reports/a%252fb.log", b"x")).status == 201
    assert stored(web, "reports") == {"a%2fb.log": b"x"}
    assert {path.name for path in tmp_path.rglob("*.log")} == {"a%2fb.log"}


@pytest.mark.parametrize(
    "headers",
    ["", basic("wrong"), basic(DEFAULT_PASSWORD), basic(PASSWORD, "root"), "Authorization: x\r\n"],
)
async def test_uploads_need_the_password(tmp_path: Path, headers: str) -> None:
    """Without the right user and password nothing is stored, not even a temporary file."""
    web = make_front(tmp_path)
    async with open_front(web):
        answer = await ask(web, "PUT", "/reports/x.log", b"x", headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert stored(web, "reports") == {}


async def test_other_methods_and_paths(tmp_path: Path) -> None:
    """Files can be put, but not read or removed; other paths are 404."""
    web = make_front(tmp_path)
    async with open_front(web):
        for method in ("GET", "HEAD", "DELETE", "PROPFIND", "MKCOL", "OPTIONS"):
            assert (await ask(web, method, "/reports/x.log")).status == 405
        for path in (
            "/",
            "/x",
            "/metrics",
            f"{BASE}/system/status",
            "/rudder/relay-api/system/info",
        ):
            assert (await ask(web, "GET", path)).status == 404


async def test_a_partial_upload_is_refused(tmp_path: Path) -> None:
    """A partial PUT is refused, as it would be stored as the whole file."""
    web = make_front(tmp_path)
    async with open_front(web):
        answer = await ask(
            web, "PUT", "/reports/x.log", b"x", GOOD + "Content-Range: bytes 5-5/9\r\n"
        )
    assert answer.status == 400
    assert stored(web, "reports") == {}


async def test_too_large_an_upload_is_refused(tmp_path: Path) -> None:
    """The limit applies to announced and unannounced sizes, and nothing is left behind."""
    web = replace(make_front(tmp_path), max_body=1000)
    async with open_front(web):
        assert (await ask(web, "PUT", "/reports/x.log", b"x" * 1001)).status == 413
        async with dial_front(web) as client:
            await client.send(
                f"PUT /reports/x.log HTTP/1.1\r\nHost: x\r\n{GOOD}"
                "Transfer-Encoding: chunked\r\n\r\n".encode()
                + b"3e9\r\n"
                + b"x" * 1001
                + b"\r\n0\r\n\r\n"
            )
            assert (await client.answer("PUT")).status == 413
        assert (await ask(web, "PUT", "/reports/y.log", b"y" * 1000)).status == 201
    assert set(stored(web, "reports")) == {"y.log"}


async def test_an_interrupted_upload_leaves_nothing(tmp_path: Path) -> None:
    """An upload has a temporary file, which is removed if the client disconnects."""
    web = make_front(tmp_path)
    async with open_front(web):
        async with dial_front(web) as client:
            head = f"PUT /reports/x.log HTTP/1.1\r\nHost: x\r\n{GOOD}Content-Length: 9\r\n\r\n"
            await client.send(head.encode() + b"12345")
            while not stored(web, "reports"):
                await trio.sleep(0.01)
            (name,) = stored(web, "reports")
            assert name.startswith(".davfs.tmp")
        while stored(web, "reports"):
            await trio.sleep(0.01)


async def test_expect_continue(tmp_path: Path) -> None:
    """A client that sends Expect: 100-continue gets 100 before it sends the body."""
    web = make_front(tmp_path)
    async with open_front(web), dial_front(web) as client:
        head = f"PUT /reports/x.log HTTP/1.1\r\nHost: x\r\n{GOOD}Content-Length: 1\r\n"
        await client.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"x")
        assert (await client.answer("PUT")).status == 201


async def test_only_tls_1_3(tmp_path: Path) -> None:
    """Versions before TLS 1.3 fail in the handshake."""
    web = make_front(tmp_path)
    context = client_context(web)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_front(web):
        async with dial_front(web, context) as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.stream.send_all(b"x")
        assert (await ask(web, "PUT", "/reports/x.log", b"x")).status == 201


@pytest.mark.parametrize("what", list(SMUGGLING))
async def test_ambiguous_http_is_refused(tmp_path: Path, what: str) -> None:
    """A request that two servers could read differently is refused, and the server goes on."""
    web = make_front(tmp_path)
    async with open_front(web):
        async with dial_front(web) as client:
            await client.send(SMUGGLING[what])
            answer = await client.until_closed()
        assert answer.startswith(b"HTTP/1.1 4")
        assert answer.count(b"HTTP/1.1") == 1
        assert (await ask(web, "PUT", "/reports/x.log", b"x")).status == 201


def echo() -> tuple[QuartTrio, trio.Event]:
    """Return an API that echoes requests, and the event that one of its answers waits for."""
    app, gate = QuartTrio(__name__, static_folder=None), trio.Event()

    @app.route(f"{BASE}/shared-files/<path:rest>", methods=["GET", "HEAD", "PUT", "POST"])
    async def echo_request(rest: str) -> Response:
        body = await request.get_data()
        raw = request.scope["raw_path"].decode()
        text = f"{request.method} {raw}?{request.query_string.decode()} {len(body)}"
        return Response(text, status=207, headers={"X-For": request.headers["X-Forwarded-For"]})

    @app.post(f"{BASE}/remote-run/all")
    async def stream() -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield b"first\n"
            await gate.wait()
            yield b"last\n"

        return Response(lines())

    return app, gate


def in_front_of(server: Server, root: Path) -> WebServer:
    """Return a web server in front of this API."""
    return make_front(root, Listen(host="127.0.0.1", port=server.port))


@pytest.mark.parametrize("base", ["/rudder/relay-api", "/relay-api"])
async def test_requests_reach_the_api(tmp_path: Path, base: str) -> None:
    """Method, raw path, query and body reach the API; status, headers and body come back."""
    app, _ = echo()
    async with open_server(app) as server:
        web = in_front_of(server, tmp_path)
        async with open_front(web), dial_front(web) as client:
            path = f"{base}/shared-files/a/b/c%20d?ttl=1%20day"
            there = f"{BASE}/shared-files/a/b/c%20d?ttl=1%20day"
            for method, body in (("PUT", b"x" * 300_000), ("POST", b"y"), ("GET", b"")):
                answer = await client.ask(method, path, body)
                assert answer.status == 207
                assert answer.body == f"{method} {there} {len(body)}".encode()
                assert answer.headers["x-for"] == "127.0.0.1"
            answer = await client.ask("HEAD", path)
            assert (answer.status, answer.body) == (207, b"")
            assert answer.headers["content-length"] == str(len(f"HEAD {there} 0"))


async def test_ambiguous_paths_do_not_reach_the_api(tmp_path: Path) -> None:
    """A path that the API could read as another one is not forwarded."""
    app, _ = echo()
    async with open_server(app) as server:
        web = in_front_of(server, tmp_path)
        async with open_front(web):
            for path in ("shared-files/../system/info", "shared-files/%2e%2e/system/info"):
                assert (await ask(web, "GET", f"/rudder/relay-api/{path}")).status == 400
            for path in ("system/info", "1/system/info", "", "shared-filesx", "/shared-files/a"):
                assert (await ask(web, "GET", f"/rudder/relay-api/{path}")).status == 404


async def read_until(client: Client, end: bytes) -> bytes:
    """Return everything received up to these bytes."""
    data = b""
    while not data.endswith(end):
        data += bytes(await client.stream.receive_some())
    return data


STREAM = b"POST /rudder/relay-api/remote-run/all HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def test_an_answer_is_streamed(tmp_path: Path) -> None:
    """The first line arrives before relayd sends the next one."""
    app, gate = echo()
    async with open_server(app) as server:
        web = in_front_of(server, tmp_path)
        async with open_front(web), dial_front(web) as client:
            await client.send(STREAM)
            assert b"first\n" in await read_until(client, b"first\n\r\n")
            gate.set()
            assert b"last\n" in await read_until(client, b"0\r\n\r\n")
            assert (await client.ask("GET", "/rudder/relay-api/shared-files/a/b/c")).status == 207


async def test_a_disconnecting_client_ends_the_request(tmp_path: Path) -> None:
    """The request to relayd ends when the client disconnects."""
    left = trio.Event()
    app = QuartTrio(__name__, static_folder=None)

    @app.post(f"{BASE}/remote-run/all")
    async def stream() -> Response:
        async def lines() -> AsyncIterator[bytes]:
            yield b"first\n"
            try:
                await trio.sleep_forever()
            finally:
                left.set()

        return Response(lines())

    async with open_server(app) as server:
        web = in_front_of(server, tmp_path)
        async with open_front(web):
            async with dial_front(web) as client:
                await client.send(STREAM)
                await read_until(client, b"first\n\r\n")
            await left.wait()


async def test_an_interrupted_answer_is_not_ended(tmp_path: Path) -> None:
    """If relayd dies in the middle, the client sees that the answer is incomplete."""
    app, _ = echo()
    async with open_server(app) as server:
        web = in_front_of(server, tmp_path)
        async with open_front(web), dial_front(web) as client:
            await client.send(STREAM)
            await read_until(client, b"first\n\r\n")
            server.scope.cancel()
            assert await client.until_closed() == b""


async def test_without_relayd(tmp_path: Path) -> None:
    """Requests to the API are answered by 503, and uploads are stored all the same."""
    web = make_front(tmp_path)
    async with open_front(web), dial_front(web) as client:
        assert (await client.ask("GET", "/rudder/relay-api/remote-run/all")).status == 503
        assert (await client.ask("PUT", "/reports/x.log", b"x", GOOD)).status == 201


async def test_storage_errors_have_different_statuses(tmp_path: Path) -> None:
    """A full disk is 507, a missing directory 409, any other error 500."""
    web = make_front(tmp_path)
    web.uploads["reports"].directory.rmdir()
    async with open_front(web):
        assert (await ask(web, "PUT", "/reports/x.log", b"x")).status == 409
    assert status_of(OSError(errno.ENOSPC, "")) == status_of(OSError(errno.EDQUOT, "")) == 507
    assert status_of(OSError(errno.EIO, "")) == 500
