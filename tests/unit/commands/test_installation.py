"""What a command knows of an installation, with and without its configuration."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from relayd.commands.cli import main
from relayd.commands.installation import SOCKET_VARIABLE, default_socket, find_installation
from relayd.commands.support.configuration import load
from relayd.control.client import NotRunningError
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
    main = tmp_path / "main.conf"
    main.write_text('[general]\nnode_id = "root"\ncontrol_socket = "/run/own"\n')
    assert find_installation(tmp_path).socket == Path("/run/own")
    main.write_text('[general]\nnode_id = "root"\ncontrol_socket = ""\n')
    assert find_installation(tmp_path).socket is None
    main.write_text('[general]\nnode_id_file = "/nonexistent/id"\n')
    with pytest.raises(StartError, match="/nonexistent/id"):
        find_installation(tmp_path)
    main.write_text("[")
    with pytest.raises(ConfigError):
        find_installation(tmp_path)


def test_a_named_socket_is_enough_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without main.conf, the variable must name the socket, and the error says so."""
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(StartError, match=rf"Could not read main .*-c DIR.*{SOCKET_VARIABLE}"):
            find_installation(directory)
    monkeypatch.setenv(SOCKET_VARIABLE, "/run/other")
    site = find_installation(tmp_path)
    assert site.socket == Path("/run/other")
    with pytest.raises(StartError, match=r"stopped; .*main\.conf does not exist"):
        site.needed(NotRunningError("stopped"))
    assert load(tmp_path).settings.general.control_socket == Path("/run/other")


def test_an_unreadable_directory_is_no_mistake_in_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of the socket's group need not be able to list the directory of main.conf."""
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "none.sock"))
    denied = lambda *_, **__: False  # noqa: E731
    monkeypatch.setattr(os, "access", denied)
    result = CliRunner().invoke(main, ["status", "-c", str(tmp_path)])
    assert "does not listen on" in result.output
    assert "not readable" not in result.output
