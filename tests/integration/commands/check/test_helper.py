"""Findings of `relayd check` about the socket of the root helper."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.commands.check.surroundings import units
from tests.support.checked import check, open_site, service_user
from tests.support.daemon import NOWHERE, Site
from tests.support.project import ROOT

UNIT = "rudder-relayd-helper@.service"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Return a server without a database whose agents are started by a helper, with its unit."""
    with open_site(NOWHERE) as site:
        site.extra["remote_run"] = f'helper = "{helper(site)}"'
        site.write_conf()
        units_of(site).mkdir()
        monkeypatch.setattr(units, "DIRECTORIES", (units_of(site),))
        write_unit(site, site.root / "rudder", site.nodes_list)
        yield site


def units_of(site: Site) -> Path:
    """The directory of units."""
    return site.root / "units"


def write_unit(site: Site, command: Path, nodes_list: Path) -> None:
    """Writes a unit as it is shipped, and a drop-in with another command and nodes list."""
    shutil.copy(ROOT / "systemd" / UNIT, units_of(site))
    drop_in = units_of(site) / f"{UNIT}.d"
    drop_in.mkdir(exist_ok=True)
    (drop_in / "local.conf").write_text(
        "[Service]\nExecStart=\nExecStart=/usr/bin/rudder-relayd-helper --user rudder-relayd \\\n"
        f"  --command {command} --nodes-list {nodes_list}\n"
    )


def helper(site: Site) -> Path:
    """The path of the socket."""
    return site.root / "helper.sock"


def findings(site: Site) -> list[str]:
    """Findings about the helper."""
    return [line for line in check(site).findings if "helper" in line]


@pytest.mark.fault("F35")
def test_a_command_that_the_helper_cannot_run_is_reported(site: Site) -> None:
    """The command behind the helper is that of its unit: missing, not executable, or open to all.

    So is a nodes list of the helper that is not the daemon's.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o666)
        command = site.root / "rudder"
        command.chmod(0o644)
        assert ": is not executable. Fix: in the helper's unit" in findings(site)[0]
        command.chmod(0o777)
        (line,) = findings(site)
        assert "users other than root can change it" in line
        command.unlink()
        (line,) = findings(site)
        assert line == (
            f"error: {command}: the helper cannot run it: No such file or directory."
            " Fix: in the helper's unit, set --command to the rudder command"
        )
        write_unit(site, Path("/bin/true"), Path("/nowhere/nodes.json"))
        (line,) = findings(site)
        assert f"accepts the hosts of /nowhere/nodes.json, not those of {site.nodes_list}" in line
        shutil.rmtree(units_of(site))
        (line,) = findings(site)
        assert line.startswith("warning: /opt/rudder/bin/rudder: the helper cannot run it")


def test_a_missing_socket_is_reported(site: Site) -> None:
    """Without a socket the fix is to enable the unit."""
    (line,) = findings(site)
    assert "not accessible" in line
    assert "systemctl enable --now rudder-relayd-helper.socket" in line


def test_another_kind_of_file_is_reported(site: Site) -> None:
    """A file that is not a socket is reported."""
    helper(site).touch()
    (line,) = findings(site)
    assert "is not a socket" in line


def test_a_socket_for_the_service_user_is_enough(site: Site) -> None:
    """A socket that the service user may write to is enough; sudo is not checked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o666)
        assert findings(site) == []
        assert not [line for line in check(site).findings if "sudo" in line]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can check another user")
def test_a_socket_of_another_user_is_reported(site: Site) -> None:
    """A socket that the service user may not write to is reported with the setting of the unit."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper(site)))
        helper(site).chmod(0o600)
        (line,) = findings(site)
        assert f"user {service_user()} may not connect to it" in line
        assert f"SocketUser={service_user()}" in line
