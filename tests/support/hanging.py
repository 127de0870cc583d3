"""relayd whose event loop hangs on demand.

`python -m tests.support.hanging GO -c DIR` runs the daemon on a configuration directory. As soon
as the file GO exists, a task blocks the whole event loop for good.
"""

import sys
import time
from pathlib import Path

import trio

from relayd.service.tree import Service


async def hang_after(go: Path) -> None:
    """Blocks once `go` exists, as an endless loop does."""
    while not go.exists():
        await trio.sleep(0.01)
    time.sleep(86_400)


if __name__ == "__main__":
    from relayd.commands.cli import rudder_relayd

    async def hang(_service: Service) -> None:
        await hang_after(Path(sys.argv[1]))

    # In the place of a task that does nothing but sleep.
    setattr(Service, "_run_canary", hang)  # noqa: B010 - to a type checker it is a method
    rudder_relayd(sys.argv[2:])
