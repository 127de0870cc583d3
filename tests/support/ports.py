"""Free TCP ports, of which no two test workers get the same."""

import os
from typing import Final

from relayd.commands.demo.processes import ports

_WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
#: Ports that this worker has got: a server that is down at the moment still needs its own.
_GIVEN: Final[set[int]] = set()


def free_port(*hosts: str) -> int:
    """Return a TCP port without a listener, which is returned once, and by one worker only."""
    while True:
        port = ports.free_port(*hosts)
        if port % _WORKERS == _WORKER and port not in _GIVEN:
            _GIVEN.add(port)
            return port
