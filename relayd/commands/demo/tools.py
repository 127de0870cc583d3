"""How to look at the relayd of a demo with the tools of an operator."""

import shlex
import sys
from typing import Final

from relayd.commands.daemon import DIRECTORY_VARIABLE
from relayd.commands.demo.processes.workspace import Workspace

#: Name of the file in the directory of a demo that a shell reads.
ENVIRONMENT: Final = "env"


def write_environment(workspace: Workspace) -> None:
    """Write what a shell reads to have `relayd` work on this relayd; raise OSError."""
    words = (
        "# Written by `relayd demo`.",
        f"export {DIRECTORY_VARIABLE}={shlex.quote(str(workspace.configuration))}",
        f'relayd() {{ {shlex.quote(sys.executable)} -m relayd "$@"; }}',
    )
    (workspace.root / ENVIRONMENT).write_text("".join(f"{word}\n" for word in words))


def tools_of(workspace: Workspace, port: int) -> list[str]:
    """Return what to open in a browser, and what to call in another terminal.

    Args:
        workspace: of its relayd at the top.
        port: of the page.
    """
    return [
        f"The page of its relayd: http://127.0.0.1:{port}/",
        f"In another terminal: . {shlex.quote(str(workspace.root / ENVIRONMENT))}; relayd status",
    ]
