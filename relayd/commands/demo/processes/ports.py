"""Free TCP ports for servers that are started, stopped and restarted."""

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
LOOPBACK = "127.0.0.1"


def free_port(*hosts: str) -> int:
    """Return an unused TCP port outside the kernel's ephemeral range.

    It is free on each of `hosts`, by default on 127.0.0.1.

    A port inside the ephemeral range (`ip(7)`, ip_local_port_range) would be a trap: while the
    server is down, a client that retries can be assigned that port as its own, connect to itself,
    and keep the server from restarting.
    """
    candidates = list(range(_LOWEST, _first_ephemeral()))
    hosts = hosts or (LOOPBACK,)
    for port in random.sample(candidates, k=min(200, len(candidates))):
        if all(_is_free(host, port) for host in hosts):
            return port
    shown = ", ".join(hosts)
    raise OSError(f"no free TCP port on {shown} between {_LOWEST} and {_first_ephemeral()}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
    return first if first > _LOWEST + 1_000 else 32_768
