"""What a command knows of an installation, with and without its configuration."""

from pathlib import Path

import pytest

from relayd.commands.installation import SOCKET_VARIABLE, default_socket, find_installation
from relayd.errors import ConfigError, StartError


def test_the_socket_is_the_default_or_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing names nothing."""
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    assert default_socket() == Path("/run/rudder-relayd/control.sock")
    monkeypatch.setenv(SOCKET_VARIABLE, "")
    assert default_socket() == Path("/run/rudder-relayd/control.sock")
    monkeypatch.setenv(SOCKET_VARIABLE, "/run/other")
    assert default_socket() == Path("/run/other")


def test_only_a_lack_of_permission_does_without_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable replaces no key of main.conf, and other faults of that file are errors."""
    monkeypatch.setenv(SOCKET_VARIABLE, "/run/other")
    with pytest.raises(StartError, match="Could not read main configuration"):
        find_installation(tmp_path)
    main = tmp_path / "main.conf"
    main.write_text('[general]\nnode_id = "root"\ncontrol_socket = "/run/own"\n')
    assert find_installation(tmp_path).socket == Path("/run/own")
    main.write_text('[general]\nnode_id = "root"\ncontrol_socket = ""\n')
    assert find_installation(tmp_path).socket is None
    main.write_text("[")
    with pytest.raises(ConfigError):
        find_installation(tmp_path)
