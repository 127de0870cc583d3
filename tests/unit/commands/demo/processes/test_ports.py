"""Free ports for servers that are restarted."""

import socket
from pathlib import Path

import pytest

from relayd.commands.demo.processes import ports


def test_port_is_free_and_not_ephemeral() -> None:
    """The port can be listened on and is not one that the kernel assigns to clients."""
    port = ports.free_port()
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 10_000 <= port < low
    with socket.create_server(("127.0.0.1", port)):
        assert ports.free_port() != port


def test_port_is_free_on_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is in use on one of the addresses is not returned."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", port)
        monkeypatch.setattr(ports, "_first_ephemeral", lambda: port + 1)
        assert ports.free_port("127.0.0.3") == port
        with pytest.raises(OSError, match=r"127\.0\.0\.3, 127\.0\.0\.2"):
            ports.free_port("127.0.0.3", "127.0.0.2")


def test_an_unreadable_range_has_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the kernel's range cannot be read, the default range is used."""
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "missing")
    assert 10_000 <= ports.free_port() < 32_768
