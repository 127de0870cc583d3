"""Free TCP ports, of which no two test workers get the same."""

import os
from typing import Final

from relayd.commands.demo.processes import ports

_WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port(*hosts: str) -> int:
    """Return a TCP port without a listener, which no other worker gets either."""
    while True:
        port = ports.free_port(*hosts)
        if port % _WORKERS == _WORKER:
            return port
