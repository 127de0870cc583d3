"""The names under which the page may be asked for: no other site can make a browser ask for it."""

import socket
from collections.abc import Iterable
from typing import Final

from relayd.config.main_conf import Listen

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed_hosts(listen: Listen, names: Iterable[str]) -> frozenset[str]:
    """Return the hosts that a request may name.

    Args:
        listen: address of the API.
        names: further ones, of this server.
    """
    found = {listen.host, socket.gethostname(), *names}
    return _LOOPBACK | frozenset(name.lower().rstrip(".") for name in found if name)


def host_of(header: str) -> str:
    """Return the host in a header `Host` (RFC 9110, 7.2), without port and brackets."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
