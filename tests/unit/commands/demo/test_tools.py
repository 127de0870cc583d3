"""Tests of `relayd.commands.demo.tools`."""

import subprocess
from pathlib import Path

from relayd import __version__
from relayd.commands.demo.processes.workspace import Workspace
from relayd.commands.demo.tools import tools_of, write_environment


def test_a_shell_gets_the_tools_by_the_line_that_is_printed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a demo's")
    workspace.configuration.mkdir(parents=True)
    write_environment(workspace)

    page, line = tools_of(workspace, 3030)

    read = line.removeprefix("In another terminal: ").removesuffix("relayd status")
    script = f"{read} relayd --version; sh -c 'printf %s \"$RELAYD_CONFIG\"'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"relayd {__version__}\n{workspace.configuration}"
    assert page.endswith("http://127.0.0.1:3030/")
