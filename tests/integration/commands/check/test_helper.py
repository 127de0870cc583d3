"""Findings of `relayd check` about the socket of the root helper."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.checked import check, service_user
from tests.support.daemon import Site


@pytest.fixture
def site(site: Site) -> Site:
    """Return a root server whose agents are started by a helper."""
    site.extra["remote_run"] = f'helper = "{helper(site)}"'
    site.write_conf()
    return site


def helper(site: Site) -> Path:
    """The path of the socket."""
    return site.root / "helper.sock"


def findings(site: Site) -> list[str]:
    """Findings about the helper."""
    return [line for line in check(site).findings if "helper" in line]


def test_a_missing_socket_is_reported(site: Site) -> None:
    """Without a socket the fix is to enable the unit."""
    (line,) = findings(site)
    assert "not accessible" in line
    assert "systemctl enable --now rudder-relayd-helper.socket" in line


def test_another_kind_of_file_is_reported(site: Site) -> None:
    """A file that is not a socket is reported."""
    helper(site).touch()
    (line,) = findings(site)
    assert "is not a socket" in line


def test_a_socket_for_the_service_user_is_enough(site: Site) -> None:
    """A socket that the service user may write to is enough; sudo is not checked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o666)
        assert findings(site) == []
        assert not [line for line in check(site).findings if "sudo" in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can check another user")
def test_a_socket_of_another_user_is_reported(site: Site) -> None:
    """A socket that the service user may not write to is reported with the setting of the unit."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o600)
        (line,) = findings(site)
        assert f"user {service_user()} may not connect to it" in line
        assert f"SocketUser={service_user()}" in line
