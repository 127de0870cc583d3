"""The demo's directory and the configuration in it."""

import stat
from pathlib import Path

import pytest

from relayd.config import load_logging, load_settings
from relayd.demo.pgserver import Connection
from relayd.demo.workspace import Workspace
from relayd.errors import StartError

DATABASE = Connection("127.0.0.1", 15432, "rudder", 'p@ss/"\\:%?#', "rudder")


def test_relayd_accepts_the_configuration(tmp_path: Path) -> None:
    """What the demo writes is what relayd reads, without a warning, whatever the password."""
    workspace = Workspace(tmp_path / "demo")
    workspace.create()
    workspace.write_configuration(DATABASE, 13030)
    settings, warnings = load_settings(workspace.configuration)
    assert warnings == []
    assert settings.node_id() == "root"
    assert settings.general.listen.port == 13030
    assert settings.processing.reporting.directory == workspace.spool
    assert settings.processing.reporting.output == "database"
    assert settings.processing.reporting.settle_time == 2.0
    assert settings.output.database.password is not None
    assert settings.output.database.password.reveal() == DATABASE.password
    assert load_logging(workspace.configuration).warnings == ()
    assert stat.S_IMODE((workspace.configuration / "main.conf").stat().st_mode) == 0o640


def test_only_logs_remain(tmp_path: Path) -> None:
    """After a demo in a temporary directory only the logs are left."""
    workspace = Workspace(tmp_path)
    workspace.create()
    workspace.log.touch()
    (workspace.incoming / "x.log").touch()
    workspace.remove_all_but_logs()
    assert list(tmp_path.iterdir()) == [workspace.log]


def test_nothing_remains_when_relayd_never_ran(tmp_path: Path) -> None:
    """A demo that was ended before relayd wrote a log leaves no directory."""
    workspace = Workspace(tmp_path / "demo")
    workspace.create()
    workspace.remove_all_but_logs()
    assert not workspace.root.exists()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second demo in the same directory does not start, and says why in one line."""
    Workspace(tmp_path).create()
    with pytest.raises(StartError, match=f"^cannot prepare {tmp_path}: File exists$"):
        Workspace(tmp_path).create()
