"""The demo's directory and the configuration in it."""

import stat
import subprocess
from pathlib import Path

import pytest

from relayd.commands.demo.processes.workspace import Layout, Workspace
from relayd.config.main_conf import load_logging, load_settings
from relayd.errors import StartError

PASSWORD = 'p@ss/"\\:%?#'


def test_relayd_accepts_the_configuration(tmp_path: Path) -> None:
    """The demo's configuration is read by relayd without a warning, whatever the password."""
    workspace = Workspace(tmp_path / "demo")
    workspace.create()
    general = {"node_id": "root", "listen": "127.0.0.1:13030"}
    database = {"url": "postgres://rudder@127.0.0.1:15432/rudder", "password": PASSWORD}
    workspace.write_configuration(
        "root server", general, "127.0.0.1:10443", "database", database=database
    )
    settings, warnings = load_settings(workspace.configuration)
    assert warnings == []
    assert settings.shared_folder.path.is_dir()
    assert settings.node_id() == "root"
    assert settings.general.listen.port == 13030
    assert settings.processing.reporting.directory == workspace.spool
    assert settings.processing.reporting.output == "database"
    assert settings.processing.reporting.settle_time == 2.0
    assert settings.output.database.password is not None
    assert settings.output.database.password.reveal() == PASSWORD
    assert load_logging(workspace.configuration).warnings == ()
    assert stat.S_IMODE((workspace.configuration / "main.conf").stat().st_mode) == 0o640


def test_the_agents_command_names_each_host(tmp_path: Path) -> None:
    """The command that a remote run starts prints a line for each host."""
    workspace = Workspace(tmp_path)
    workspace.create()
    workspace.write_configuration("relay 1", {"node_id": "root"}, "127.0.0.1:10443", "disabled")
    settings, _ = load_settings(workspace.configuration)
    command = [
        str(settings.remote_run.command),
        "remote",
        "run",
        "-D",
        "x",
        "--",
        "a.example,b.example",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == [
        "a.example: agent run started by relay 1",
        "b.example: agent run started by relay 1",
    ]


def test_only_logs_remain(tmp_path: Path) -> None:
    """After a demo in a temporary directory only the logs remain, including those of relays."""
    layout = Layout(tmp_path, 1)
    layout.create()
    (layout.postgres / "data").mkdir(parents=True)
    logs = [layout.postgres / "server.log"]
    for workspace in layout.workspaces:
        workspace.write_configuration("x", {}, "127.0.0.1:10443", "disabled")
        (workspace.incoming / "x.log").touch()
        logs.append(workspace.log)
    for log in logs:
        log.touch()
    layout.remove_all_but_logs()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(logs)
    layout.remove()
    assert not tmp_path.exists()


@pytest.mark.fault("F47")
def test_no_empty_directories_remain(tmp_path: Path) -> None:
    """Of relays that never ran and a database server without a log, no directory remains."""
    layout = Layout(tmp_path, 2)
    layout.create()
    (layout.postgres / "data").mkdir(parents=True)
    layout.server.log.touch()
    layout.remove_all_but_logs()
    assert list(tmp_path.iterdir()) == [layout.server.log]


def test_nothing_remains_when_relayd_never_ran(tmp_path: Path) -> None:
    """A demo that was stopped before relayd wrote a log leaves no directory."""
    layout = Layout(tmp_path / "demo", 0)
    layout.create()
    layout.remove_all_but_logs()
    assert not layout.root.exists()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second demo in the same directory fails with a message of one line."""
    Layout(tmp_path, 0).create()
    with pytest.raises(StartError, match=f"^cannot prepare {tmp_path}: .* exists already"):
        Layout(tmp_path, 0).create()
