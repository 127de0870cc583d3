"""A PgBouncer between relayd and a server, configured as little as it allows."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from relayd.commands.demo.cluster import shipped
from relayd.commands.demo.postgres.programs import server_account
from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.ports import free_port

PoolMode = Literal["session", "transaction"]


@contextmanager
def open_pgbouncer(
    server: ConnectionInfo, mode: PoolMode, settings: str = "", *, pool_size: int = 20
) -> Iterator[int]:
    """Run PgBouncer before a server; yield its port on 127.0.0.1.

    Args:
        server: a connection to it, whose password clients need too.
        mode: after what a session of the server may be given to another client.
        settings: further lines of `[pgbouncer]`.
        pool_size: how many sessions there are.
    """
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="relayd-pgbouncer-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        users = directory / "users.txt"
        users.write_text("".join(f'"{u}" "{server.password}"\n' for u in (server.user, "nobody")))
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = {mode}\n"
            f"default_pool_size = {pool_size}\n{settings}\n"
        )
        with _running(configuration):
            yield port


@contextmanager
def open_shipped_pgbouncer(server: ConnectionInfo, mode: PoolMode) -> Iterator[int]:
    """Run PgBouncer with the file in `conf/ha`, other ports and paths; yield its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="relayd-pgbouncer-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        users = directory / "users.txt"
        users.write_text(f'"{server.user}" "{server.password}"\n')
        replacements = {
            "port=5000": f"port={server.port}",
            "listen_port = 6432": f"listen_port = {port}",
            "unix_socket_dir = /var/run/postgresql": "unix_socket_dir =",
            "/etc/pgbouncer/userlist.txt": str(users),
            "pool_mode = transaction": f"pool_mode = {mode}",
        }
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(shipped.fill(shipped.read("pgbouncer.ini"), replacements))
        with _running(configuration):
            yield port


@contextmanager
def _running(configuration: Path) -> Iterator[None]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    log = configuration.with_name("log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, configuration],
            stdin=subprocess.DEVNULL,
            stderr=output,
            **server_account().credentials(),
        )
    try:
        while "process up" not in (text := log.read_text()):
            assert process.poll() is None, f"pgbouncer did not start: {text}"
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()
