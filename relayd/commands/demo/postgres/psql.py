"""Calls `psql` as the superuser of a server on this machine."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SUPERUSER: Final = "postgres"


def run_psql(
    programs: Path, home: Path, port: int, database: str, sql: str, environment: Mapping[str, str]
) -> str:
    """Run SQL over the socket of a server.

    Args:
        programs: directory with `psql`.
        home: directory with the socket.
        port: of the server.
        database: the database to run it in.
        sql: statements and psql commands.
        environment: of psql, so that no argument contains a secret.

    Returns:
        The rows as CSV, without a header.

    Raises:
        RuntimeError: a statement failed; the text is psql's.
    """
    command: list[str | Path] = [
        programs / "psql",
        *("-X", "-q", "--csv", "-t", "-v", "ON_ERROR_STOP=1"),
        *("-h", home, "-p", str(port), "-U", SUPERUSER, "-d", database),
    ]
    done = subprocess.run(
        command,
        input=sql,
        text=True,
        capture_output=True,
        check=False,
        cwd=home,
        env=dict(environment),
        start_new_session=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout
