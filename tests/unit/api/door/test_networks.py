"""Networks of a file for Apache and of main.conf."""

import ipaddress
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.api.door.networks import AllowedNetworks, client_of, read_networks
from relayd.api.door.watched import LOOK_S


@pytest.mark.parametrize(
    ("line", "networks"),
    [
        ("Require ip 192.0.2.0/24", ["192.0.2.0/24"]),
        ("  require IP 192.0.2.1 2001:db8::/32", ["192.0.2.1/32", "2001:db8::/32"]),
        ("Require ip 10.1", ["10.1.0.0/16"]),
        ("Require ip 10.1.2.", ["10.1.2.0/24"]),
        ("Require ip 10.1.0.0/255.255.0.0", ["10.1.0.0/16"]),
        ("Require all granted", ["0.0.0.0/0", "::/0"]),
        ("Require local", ["127.0.0.0/8", "::1/128"]),
        ("Require all denied", []),
        ("# Require ip 10.0.0.0/8", []),
        ("", []),
    ],
)
def test_line_of_apache(line: str, networks: list[str]) -> None:
    """A line grants to the networks that Apache would grant to."""
    with capture_logs() as logs:
        assert [str(network) for network in read_networks(line)] == networks
    assert logs == []


@pytest.mark.parametrize("line", ["Require ip 10.0.0.0/33", "Require host x", "Require", "ip ::1"])
def test_line_that_is_not_understood_grants_nothing(line: str) -> None:
    """It is logged and passed over; the others count."""
    with capture_logs() as logs:
        assert len(read_networks(f"{line}\nRequire ip 10.0.0.1")) == 1
    assert [entry["event"] for entry in logs] == ["line about networks ignored"]


async def test_file_is_read_again_when_it_changes(tmp_path: Path, autojump_clock: object) -> None:
    """A new line counts without a reload, a removed file grants nothing; main.conf stays."""
    path = tmp_path / "networks"
    allowed = AllowedNetworks([ipaddress.ip_network("198.51.100.0/24")], path)
    assert await allowed.allow("198.51.100.7")
    assert await allowed.allow("::ffff:198.51.100.7")
    assert not await allowed.allow("192.0.2.1")
    path.write_text("Require ip 192.0.2.0/24\n")
    await trio.sleep(LOOK_S)
    assert await allowed.allow("192.0.2.1")
    path.unlink()
    await trio.sleep(LOOK_S)
    assert not await allowed.allow("192.0.2.1")
    assert not await allowed.allow("")


def test_clients_of_one_ipv6_network_count_together() -> None:
    """A client may have all addresses of a /64; with IPv4 it has one."""
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1") == "192.0.2.1"
