"""How to look at the relayd of a demo with the tools of an operator."""

import os
import shlex
import sys
from pathlib import Path

from relayd.commands.demo.tree import Tree


def tools_of(tree: Tree) -> list[str]:
    """Return what to open in a browser, and what to call in another terminal."""
    directory = shlex.quote(str(tree.root.workspace.configuration))
    return [
        f"The page of its relayd: http://127.0.0.1:{tree.root.port}/",
        f"In another terminal: {_program()} status -c {directory}   (or top, nodes, queue, failed)",
    ]


def _program() -> str:
    """Return the command that runs this program, as short as the present directory allows."""
    executable = Path(sys.executable)
    here = Path.cwd()
    if executable.is_relative_to(here):
        executable = Path(os.curdir) / executable.relative_to(here)
    return f"{shlex.quote(str(executable))} -m relayd"
