"""What `relayd check` says of the root helper's socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.commands.demo.postgres.server import Server
from tests.support import postgres
from tests.support.checked import check, open_site, service_user
from tests.support.daemon import Site


@pytest.fixture
def site(postgres_server: Server) -> Iterator[Site]:
    """A root server that has its agents started by a helper."""
    with (
        postgres.fresh_database(postgres_server) as database,
        open_site(database.rudder) as site,
    ):
        site.extra["remote_run"] = f'helper = "{helper(site)}"'
        site.write_conf()
        yield site


def helper(site: Site) -> Path:
    """Where the socket belongs."""
    return site.root / "helper.sock"


def told(site: Site) -> list[str]:
    """Findings about the helper."""
    return [line for line in check(site).findings if "helper" in line]


def test_missing_socket_is_told(site: Site) -> None:
    """Without a socket the unit is to be enabled."""
    (line,) = told(site)
    assert "cannot be found" in line
    assert "systemctl enable --now rudder-relayd-helper.socket" in line


def test_what_is_no_socket_is_told(site: Site) -> None:
    """Something else in its place is told."""
    helper(site).touch()
    (line,) = told(site)
    assert "is not a socket" in line


def test_socket_for_the_service_user_is_right(site: Site) -> None:
    """A socket that the service user may write to is all that is needed; sudo is not asked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o666)
        assert told(site) == []
        assert not [line for line in check(site).findings if "sudo" in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to ask for another user")
def test_socket_of_somebody_else_is_told(site: Site) -> None:
    """A socket that the service user may not write to is told with the unit's key."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o600)
        (line,) = told(site)
        assert f"user {service_user()} may not connect to it" in line
        assert f"SocketUser={service_user()}" in line
