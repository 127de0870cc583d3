"""A PgBouncer between relayd and a server, configured as little as it allows."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

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
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    account, port = server_account(), free_port("127.0.0.1")
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
        process = subprocess.Popen(
            [program, configuration],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **account.credentials(),
        )
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert any("process up" in line for line in lines), "pgbouncer did not start"
            yield port
        finally:
            process.kill()
            process.communicate()
