"""The systemd units, judged by systemd's own tools."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from relayd.config.main_conf import Settings
from tests.support.project import CONF, ROOT, UNITS

SERVICE: Final = "rudder-relayd.service"
SOCKET: Final = "rudder-relayd-helper.socket"
HELPER: Final = "rudder-relayd-helper@.service"
DROP_IN: Final = f"{SERVICE}.d/sudo.conf"
LISTENING: Final = "rudder-relayd.socket"
FRONT_DOOR: Final = f"{SERVICE}.d/front-door.conf"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return the units with programs that exist here; without drop-ins, as they are installed."""
    for name in (SERVICE, SOCKET, HELPER):
        text = (UNITS / name).read_text().replace("ExecStart=/usr/bin/", f"ExecStart={tmp_path}/")
        (tmp_path / name).write_text(text)
    for name in ("rudder-relayd", "rudder-relayd-helper"):
        (tmp_path / name).symlink_to("/bin/true")
    return tmp_path


def add_drop_in(units: Path, name: str = DROP_IN) -> None:
    """Installs a drop-in, by default what sudo needs."""
    (units / name).parent.mkdir()
    shutil.copy(UNITS / name, units / name)


def exposure(units: Path, unit: str) -> float:
    """Return the figure of `systemd-analyze security`, 0 to 10; it prints ten times as much."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"./{unit}"]
    done = subprocess.run(command, cwd=units, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    assert "Overall exposure level" in last
    return float(last.split(":")[1].split()[0])


def weaknesses(units: Path, unit: str) -> set[str]:
    """Names of the restrictions that are not in force."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short"]
    done = subprocess.run([*command, f"./{unit}"], cwd=units, capture_output=True, check=True)
    return {row["json_field"] for row in json.loads(done.stdout) if not row["set"]}


@pytest.mark.parametrize("drop_in", [DROP_IN, FRONT_DOOR])
def test_units_are_valid(units: Path, drop_in: str) -> None:
    """Every line of the units is one that systemd understands, the drop-ins included."""
    add_drop_in(units, drop_in)
    command = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no"]
    names = [f"./{name}" for name in (SERVICE, SOCKET, HELPER)]
    done = subprocess.run(
        [*command, *names], cwd=units, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.fault("D.6.1")
def test_exposure_of_the_service(units: Path) -> None:
    """The unit of the service is exposed by what a network service needs, and no more."""
    assert exposure(units, SERVICE) <= 1.5


@pytest.mark.fault("D.6.1")
def test_exposure_of_the_helper(units: Path) -> None:
    """The helper runs as root, with one of root's powers."""
    assert exposure(units, HELPER) <= 3.0


def test_drop_in_lets_sudo_work(units: Path) -> None:
    """With the drop-in nothing is left by which systemd forbids new privileges on its own."""
    add_drop_in(units)
    left = weaknesses(units, SERVICE)
    # Each of these implies NoNewPrivileges in a unit with User=, see systemd.exec(5).
    assert left >= {
        "NoNewPrivileges",
        "PrivateDevices",
        "ProtectClock",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "MemoryDenyWriteExecute",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "SystemCallArchitectures",
        "CapabilityBoundingSet_CAP_SET_UID_GID_PCAP",
        "PrivateUsers",
    }
    assert not left & {"ProtectSystem", "ProtectHome", "PrivateTmp", "ProtectControlGroups"}
    assert exposure(units, SERVICE) < 7


def test_front_door_needs_one_capability(units: Path) -> None:
    """With the drop-in for low ports the service may bind them, and loses its user namespace."""
    before = weaknesses(units, SERVICE)
    add_drop_in(units, FRONT_DOOR)
    added = weaknesses(units, SERVICE) - before
    assert added == {
        "PrivateUsers",
        "AmbientCapabilities",
        "CapabilityBoundingSet_CAP_NET_BIND_SERVICE_BROADCAST_RAW)",
    }
    assert exposure(units, SERVICE) <= 2.0


def test_sockets_of_the_front_door_need_no_privilege(units: Path) -> None:
    """With sockets from systemd the service keeps all of its restrictions."""
    before = weaknesses(units, SERVICE)
    shutil.copy(UNITS / "front-door" / LISTENING, units)
    (units / FRONT_DOOR).parent.mkdir()
    shutil.copy(UNITS / "front-door" / "socket.conf", units / FRONT_DOOR)
    command = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no"]
    done = subprocess.run(
        [*command, f"./{LISTENING}", f"./{SERVICE}"],
        cwd=units,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert weaknesses(units, SERVICE) == before


@pytest.mark.fault("D.6.5", "D.4.3")
def test_service_is_bounded_and_restarted() -> None:
    """The service is started again after all but a broken configuration, and is bounded."""
    lines = (UNITS / SERVICE).read_text().splitlines()
    for line in (
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "WatchdogSec=30s",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LimitCORE=0",
    ):
        assert line in lines
    assert any(line.startswith("MemoryMax=") for line in lines)
    assert any(line.startswith("TasksMax=") for line in lines)


def test_unit_account_and_package_agree_on_places_and_group() -> None:
    """Defaults of main.conf, the unit, sysusers, tmpfiles and the purge name the same."""
    general = Settings().general
    lines = dict(
        line.split("=", 1)
        for line in (UNITS / SERVICE).read_text().splitlines()
        if line.partition("=")[0] in {"Group", "RuntimeDirectory", "StateDirectory", "User"}
    )
    assert general.control_socket is not None
    assert general.control_socket.parent == Path("/run", lines["RuntimeDirectory"])
    assert general.state_directory == Path("/var/lib", lines["StateDirectory"])
    purge = (ROOT / "packaging/debian/postrm").read_text().partition("purge)")[2]
    assert f"rm -rf {general.state_directory}\n" in purge
    accounts = (CONF / "sysusers.d/relayd.conf").read_text().splitlines()
    assert f"m {lines['User']} {lines['Group']}" in accounts
    made = (CONF / "tmpfiles.d/relayd.conf").read_text()
    places = [line.split() for line in made.splitlines() if line.startswith("d ")]
    assert {place[4].lstrip(":") for place in places} == {lines["Group"]}
    # systemd makes these two, and removes the first at each stop.
    own = {str(general.control_socket.parent), str(general.state_directory)}
    assert not own & {place[1] for place in places}
    labels = (ROOT / "selinux/relayd.fc").read_text().splitlines()
    words = [line.split() for line in labels if line]
    patterns = [(line[0], line[1] if len(line) > 2 else "") for line in words]
    assert len(patterns) == len(set(patterns))
    assert own <= {pattern.removesuffix("(/.*)?") for pattern, _kind in patterns}
