"""The server as a whole: where it listens, whom it accepts, how it stops."""

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.api.server.limits import Limits
from relayd.api.server.listeners import open_listeners
from relayd.api.server.server import VERSIONS, check_versions
from relayd.config.main_conf import Listen
from relayd.errors import StartError
from tests.support.http import BASE, INFO, Client, api, gated, open_server

STATUS = f"{BASE}/system/status"


def test_the_libraries_are_those_it_was_made_for() -> None:
    """The installed releases pass; another one prevents the start and is named."""
    check_versions()
    with pytest.raises(StartError) as caught:
        check_versions({**VERSIONS, "hypercorn": "0.0.1"})
    text = f"hypercorn {version('hypercorn')} is installed, but only 0.0.1 is supported"
    assert str(caught.value) == text


@pytest.mark.fault("A1")
async def test_slow_clients_take_no_place_from_others() -> None:
    """With 500 half requests open and 100 places, everyone who asks for the status gets it."""
    limits = Limits(connections=100, head_s=600)
    async with open_server(api(), limits=limits) as server, trio.open_nursery() as nursery:
        slow = []
        for _ in range(500):
            client = Client(await trio.open_tcp_stream("127.0.0.1", server.port))
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
            slow.append(client)
        for _ in range(50):
            assert (await server.ask("GET", STATUS)).status == 200
        # The first of them was closed, but no more than necessary: the last may continue.
        assert await slow[0].until_closed() == b""
        await slow[-1].send(b"y\r\n\r\n")
        assert (await slow[-1].answer()).status == 200
        for client in slow:
            nursery.start_soon(trio.aclose_forcefully, client.stream)


@pytest.mark.fault("A1")
async def test_with_requests_in_progress_everywhere_a_newcomer_is_answered() -> None:
    """No request is given up for another: who finds no place gets 503, which is logged."""
    app, asked, gate = gated()
    async with open_server(app, limits=Limits(connections=1)) as server:
        async with server.client() as busy:
            await busy.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
            with capture_logs() as logs:
                assert (await server.raw(b"")).startswith(b"HTTP/1.1 503 ")
            assert [(line["component"], line["log_level"]) for line in logs] == [("api", "warning")]
            gate.set()
            assert (await busy.answer()).body == b"done"
        assert await server.lives()


async def test_a_newcomer_that_is_gone_before_its_answer_does_no_harm() -> None:
    """Where there is no place, a client that resets its connection at once ends nothing."""
    app, asked, gate = gated()
    async with open_server(app, limits=Limits(connections=1)) as server:
        async with server.client() as busy:
            await busy.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
            for _ in range(20):
                # Without a checkpoint between the two, the server accepts a closed connection.
                with socket.create_connection(("127.0.0.1", server.port)) as client:
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            gate.set()
            assert (await busy.answer()).body == b"done"
        assert await server.lives()


async def test_a_stop_lets_answers_end_and_idle_clients_go() -> None:
    """After a stop no one is accepted, the idle are closed at once, the busy get their answer."""
    app, asked, gate = gated()
    async with open_server(app) as server:
        async with server.client() as idle, server.client() as busy:
            await idle.ask("GET", "/metrics")
            await busy.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
            server.stop.set()
            assert await idle.until_closed() == b""
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            assert not server.ended.is_set()
            gate.set()
            assert (await busy.answer()).body == b"done"
            await busy.send(INFO)
            assert await busy.until_closed() == b""
        await server.ended.wait()


async def test_a_stop_does_not_wait_for_an_answer_for_ever() -> None:
    """An answer that does not end within the grace is cut off."""
    app, asked, _ = gated()
    async with open_server(app, grace=0.1) as server, server.client() as client:
        await client.send(b"GET /gated HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        server.stop.set()
        await server.ended.wait()
        assert await client.until_closed() == b""


@pytest.mark.history(64)
async def test_it_listens_on_a_host_name() -> None:
    """A name is resolved, and each address that the machine has for it answers."""
    async with open_server(api(), listen=Listen(host="localhost", port=0)) as server:
        assert server.urls
        for url in server.urls:
            found = re.fullmatch(r"http://\[?(.+?)\]?:(\d+)", url)
            assert found is not None
            async with await trio.open_tcp_stream(found[1], int(found[2])) as stream:
                assert (await Client(stream).ask("GET", STATUS)).status == 200


@pytest.mark.fault("A24")
async def test_a_port_in_use_is_a_start_error() -> None:
    """The one line says which address and why; the port's owner is not disturbed."""
    async with open_server(api()) as server:
        listen = Listen(host="127.0.0.1", port=server.port)
        with pytest.raises(StartError) as caught:
            async with open_listeners(listen):
                pass
        assert str(caught.value) == f"cannot listen on {listen}: Address already in use"
        assert await server.lives()


@pytest.mark.fault("A24")
@pytest.mark.parametrize(
    ("listen", "why"),
    [
        (Listen(host="no-such-host.invalid", port=3030), "no-such-host.invalid:3030"),
        (Listen(host="192.0.2.1", port=3030), "192.0.2.1:3030"),
        (Listen(path="/no/such/directory/socket"), "unix:/no/such/directory/socket"),
    ],
)
async def test_an_address_that_is_not_here_is_a_start_error(listen: Listen, why: str) -> None:
    """Unknown names, foreign addresses and missing directories are reported in one line."""
    with pytest.raises(StartError) as caught:
        async with open_listeners(listen):
            pass
    assert str(caught.value).startswith(f"cannot listen on {why}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.fault("A25")
async def test_a_unix_socket_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    """The socket has mode 0660, serves who may connect, and is gone after the stop."""
    path = tmp_path / "api.sock"
    async with open_server(api(), listen=Listen(path=str(path))) as server:
        assert server.urls == [f"unix:{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with await trio.open_unix_socket(path) as stream:
            assert (await Client(stream).ask("POST", f"{BASE}/system/reload")).status == 200
    assert not path.exists()


def connect_as_nobody(path: Path) -> int:
    """Connects in a process of another user; returns its errno, 0 when it could."""
    with warnings.catch_warnings():
        # The child only makes a few system calls, so the other threads do not matter.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = socket.socket(socket.AF_UNIX).connect_ex(str(path))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.fault("A25")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_local_user_cannot_connect(place: Path) -> None:
    """A user outside the socket's group is turned away by the kernel."""
    path = place / "api.sock"
    async with open_server(api(), listen=Listen(path=str(path))):
        assert connect_as_nobody(path) == errno.EACCES


async def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    """A stale socket does not prevent the start."""
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = open_server(api(), listen=Listen(path=str(path)))
    async with server, await trio.open_unix_socket(path) as stream:
        assert (await Client(stream).ask("GET", "/metrics")).status == 200


async def test_a_socket_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    """Neither a living server's socket nor somebody's file is replaced."""
    file, path = tmp_path / "file", tmp_path / "api.sock"
    file.write_text("precious")
    with pytest.raises(StartError, match="not a socket"):
        async with open_listeners(Listen(path=str(file))):
            pass
    assert file.read_text() == "precious"
    async with open_server(api(), listen=Listen(path=str(path))):
        with pytest.raises(StartError, match="another process listens there"):
            async with open_listeners(Listen(path=str(path))):
                pass
        async with await trio.open_unix_socket(path) as stream:
            assert (await Client(stream).ask("GET", "/metrics")).status == 200


async def test_a_socket_that_hangs_prevents_the_start(tmp_path: Path) -> None:
    """An address whose process accepts no connection is reported, not waited for."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as hung, contextlib.ExitStack() as clients:
        hung.bind(path)
        hung.listen(0)
        full = 0
        while full != errno.EAGAIN:
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(path)
        with pytest.raises(StartError, match="another process listens there"):
            async with open_listeners(Listen(path=path)):
                pass
