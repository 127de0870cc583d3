"""Every URL and environment connects where libpq connects, and nowhere else."""

import asyncio
import os
import pwd
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.config.database_url import DatabaseUrl, connect_arguments
from relayd.config.secret import Secret
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.connection import Patience, connect
from relayd.outputs.postgres.faults import ConnectError
from tests.support.libpq import PASSWORD, Surface, open_surface
from tests.support.libpq_cases import CASES, Case

WHO = (
    "SELECT concat_ws(' ', current_user, current_database(), inet_server_port(),"
    " current_setting('work_mem'), current_setting('statement_timeout'),"
    " (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()))"
)
PATIENCE = Patience(connect=2.0)


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    with open_surface() as found:
        yield found


async def ask(case: Case, surface: Surface, environment: dict[str, str], password: str) -> str:
    """Return the answer that relayd gets; a ValueError is what `-t` refuses."""
    url = surface.fill(case.url)
    DatabaseUrl.parse(url)
    parameters = connect_arguments(url, Secret(password))
    user = pwd.getpwuid(os.geteuid()).pw_name
    surroundings = Surroundings(environment, Path(environment["HOME"]), user)
    connection = await connect(parameters, PATIENCE, surroundings=surroundings)
    try:
        await connection.execute("BEGIN")
        answer = await connection.fetchval(WHO)
        await connection.execute("ROLLBACK")
    finally:
        connection.terminate()
    assert isinstance(answer, str)
    return answer


async def try_relayd(
    case: Case, surface: Surface, environment: dict[str, str], password: str
) -> tuple[str | None, str]:
    """Return the answer, None if there is no connection, and why not."""
    try:
        return await ask(case, surface, environment, password), ""
    except ConnectError as error:
        return None, f"{error.kind}: {error}"
    except ValueError as error:
        return None, f"url: {error}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.fault("F8", "F10", "F13", "F29")
def test_both_connect_or_neither(surface: Surface, case: Case) -> None:
    """Both relayd and psql reach the same server, or neither does and relayd says why."""
    known = {"right": PASSWORD}
    filled = {name: surface.fill(known.get(v, v)) for name, v in case.variables.items()}
    environment = {"HOME": surface.fill("{files}/empty"), **filled}
    password = known.get(case.password, case.password)
    ours, why = asyncio.run(try_relayd(case, surface, environment, password))
    assert (ours is None) == bool(case.names), why
    assert surface.fill(case.names) in why
    assert PASSWORD not in why
    if surface.version < case.since:
        return
    given = {**environment, "PGPASSWORD": password} if password else environment
    theirs, said = surface.ask_psql(surface.fill(case.url), WHO, given)
    assert ours == theirs, (why, said)


def test_attempt_that_is_given_up_leaves_no_connection(surface: Surface) -> None:
    """It is closed at once: a goodbye over TLS that nobody answers would keep it for long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(give_up(listener, Path(surface.fill("{files}"))))


async def give_up(listener: socket.socket, files: Path) -> None:
    """Cancel an attempt in the middle of the login; wait until the server sees its end."""
    port = listener.getsockname()[1]
    url = f"postgres://trusted@127.0.0.1:{port}/rudder?sslmode=require"
    attempt = asyncio.create_task(connect(connect_arguments(url, Secret("")), Patience(60.0)))
    asked = threading.Event()
    server = asyncio.create_task(asyncio.to_thread(be_silent, listener, files, asked))
    await asyncio.to_thread(asked.wait)
    attempt.cancel()
    assert isinstance((await asyncio.gather(attempt, return_exceptions=True))[0], BaseException)
    async with asyncio.timeout(20):
        await server


def be_silent(listener: socket.socket, files: Path, asked: threading.Event) -> None:
    """Accept a connection with TLS, never answer its login, and wait until it is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "server.crt", files / "server.key")
    context.num_tickets = 0
    link, _ = listener.accept()
    link.recv(8)
    link.sendall(b"S")
    with context.wrap_socket(link, server_side=True) as stream:
        stream.recv(4096)
        rest = socket.socket(fileno=stream.detach())
    asked.set()
    with rest:
        while rest.recv(4096):
            pass
