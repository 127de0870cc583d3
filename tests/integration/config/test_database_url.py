"""Connections to a real PostgreSQL, from what `main.conf` says."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relayd.config.main_conf import database_parameters, load_settings
from relayd.outputs.postgres.connection import Patience, connect
from relayd.outputs.postgres.faults import ConnectError, Step
from tests.support.postgres import Database


def parameters(directory: Path, url: str, password: str) -> dict[str, Any]:
    """Return what relayd would connect with, for this URL and password in main.conf."""
    path = directory / "main.conf"
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    path.write_text(
        f'general.node_id = "root"\n[output.database]\nurl = "{url}"\npassword = "{quoted}"\n'
    )
    path.chmod(0o600)
    settings, warnings = load_settings(directory)
    assert warnings == []
    return database_parameters(settings)


def ask(arguments: dict[str, Any], sql: str) -> object:
    """Return the one value that `sql` gives on a connection made with `arguments`."""

    async def query() -> object:
        connection = await connect(arguments, Patience())
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(query())


@pytest.mark.history(31)
@pytest.mark.parametrize("password", ["p@ss/w?rd#", "100%41 : &=+", "a\"b\\c'd", "pässwörd"])
def test_password_of_any_characters_is_accepted_by_the_server(
    database: Database, tmp_path: Path, password: str
) -> None:
    """A password is used as the operator wrote it, whatever a URL would make of it."""
    literal = password.replace("'", "''")
    role = database.rudder.user + "_with_password"
    create = f"CREATE ROLE {role} LOGIN PASSWORD '{literal}' IN ROLE {database.rudder.user}"
    database.query(f"DROP ROLE IF EXISTS {role}; {create}")
    url = database.rudder.url.replace(database.rudder.user + "@", role + "@")
    assert ask(parameters(tmp_path, url, password), "SELECT current_user") == role


@pytest.mark.history(32)
def test_options_of_the_url_act_with_a_password(database: Database, tmp_path: Path) -> None:
    """`sslmode`, settings and connection options of the URL hold on the connection."""
    url = database.rudder.url + "?sslmode=prefer&application_name=re%20lay&connect_timeout=20"
    arguments = parameters(tmp_path, url, database.rudder.password)
    assert ask(arguments, "SELECT current_setting('application_name')") == "re lay"
    refused = parameters(
        tmp_path, database.rudder.url + "?sslmode=require", database.rudder.password
    )
    with pytest.raises(ConnectError, match="sslmode=require") as caught:
        ask(refused, "SELECT 1")
    assert (caught.value.step, caught.value.kind) == (Step.TLS, "operator")


@pytest.mark.parametrize("first", ["127.0.0.1:1", "127.0.0.1:1,[::1]:1"])
def test_another_host_of_the_url_is_tried(database: Database, tmp_path: Path, first: str) -> None:
    """With several hosts, IPv6 addresses among them, the one that answers is used."""
    there = f"127.0.0.1:{database.rudder.port}"
    url = database.rudder.url.replace(there, f"{first},{there}")
    assert url != database.rudder.url
    arguments = parameters(tmp_path, url, database.rudder.password)
    assert ask(arguments, "SELECT current_user") == database.rudder.user
