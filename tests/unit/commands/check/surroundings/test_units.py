"""The unit that a fix names is the one that really runs relayd."""

from pathlib import Path

import pytest

from relayd.commands.check.surroundings import processes, units
from relayd.commands.check.surroundings.units import Service, find_service
from relayd.spool.layout import run_log_spool

PID = 4711


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: `etc` and `lib` have the units, `proc` the processes."""
    for name in ("etc", "lib", f"proc/{PID}", "bin", "reports/incoming"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(units, "DIRECTORIES", (tmp_path / "etc", tmp_path / "lib"))
    monkeypatch.setattr(processes, "_PROC", tmp_path / "proc")
    (tmp_path / "bin/rudder-relayd").write_text("#!/usr/bin/python3\n")
    (tmp_path / "proc/locks").write_text("")
    return tmp_path


def install(machine: Path, unit: str, program: str) -> None:
    """Add a unit with a program."""
    (machine / f"{unit}.service").write_text(f"[Service]\nExecStart={program}\n")


def run(machine: Path, group: str) -> None:
    """Let a process in this control group lock the spool."""
    (machine / f"proc/{PID}/cgroup").write_text(f"0::{group}\n")
    status = (machine / "reports/incoming").stat()
    major, minor = status.st_dev >> 8 & 0xFFF, status.st_dev & 0xFF | status.st_dev >> 12 & ~0xFF
    place = f"{major:02x}:{minor:02x}:{status.st_ino}"
    (machine / "proc/locks").write_text(f"1: FLOCK  ADVISORY  WRITE {PID} {place} 0 EOF\n")


def found(machine: Path) -> Service:
    """The service of this machine."""
    return find_service([run_log_spool(machine / "reports")])


@pytest.mark.fault("F37")
def test_the_unit_of_rudders_own_daemon_is_never_named(machine: Path) -> None:
    """Where rudder-relayd.service starts Rudder's daemon, only relayd.service is relayd's."""
    rudders = machine / "bin/rudders"
    rudders.mkdir()
    (rudders / "rudder-relayd").write_bytes(b"\x7fELF\x02")
    install(machine / "lib", "rudder-relayd", str(rudders / "rudder-relayd"))
    start = found(machine).start(Path("/etc/x y"))
    assert start == "install relayd's unit and start it, or run rudder-relayd -c '/etc/x y'"
    install(machine / "lib", "relayd", f"{machine}/bin/rudder-relayd")
    assert found(machine) == Service("relayd", None)
    assert found(machine).start(Path("/x")) == (
        "systemctl start relayd; if it does not run, journalctl -u relayd"
    )


@pytest.mark.fault("F37")
def test_the_unit_of_the_source_tree_is_named(machine: Path) -> None:
    """A rudder-relayd.service that starts relayd takes precedence over Rudder's of that name."""
    install(machine / "etc", "rudder-relayd", f"-{machine}/bin/rudder-relayd")
    assert found(machine).act("restart") == "systemctl restart rudder-relayd"


@pytest.mark.fault("F37")
@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("/system.slice/relayd.service", "relayd"),
        ("/system.slice/relay-two.service", "relay-two"),
        ("/system.slice/ssh.service", None),
        ("/user.slice/session-1.scope", None),
        ("/", None),
    ],
)
def test_a_running_relayd_is_reloaded_where_it_runs(
    machine: Path, group: str, unit: str | None
) -> None:
    """The unit is that of the process; one without a unit of relayd's is named by its number."""
    for name in ("relayd", "relay-two"):
        install(machine / "lib", name, "/usr/bin/python3 -m relayd run")
    install(machine / "lib", "ssh", "/usr/sbin/sshd -D")
    run(machine, group)
    service = found(machine)
    assert (service.unit, service.pid) == (unit, PID)
    if unit:
        assert service.act("reload") == f"systemctl reload {unit}"
        assert service.log == f"journalctl -u {unit}"
    else:
        assert service.act("reload") == f"kill -HUP {PID}"
        assert service.act("restart").startswith(f"end process {PID}, ")


def test_what_the_unit_makes_and_names_is_known(machine: Path) -> None:
    """Directories that systemd makes at the start need not exist before; drop-ins count."""
    assert units.service_group() is None
    assert not units.makes_directory(Path("/run/rudder-relayd"))
    install(machine / "lib", "relayd", f"{machine}/bin/rudder-relayd")
    with (machine / "lib/relayd.service").open("a") as unit:
        unit.write("Group=rudder\nRuntimeDirectory=rudder-relayd\nStateDirectory=a rudder-relayd\n")
    assert units.service_group() == ("relayd.service", "rudder")
    assert units.makes_directory(Path("/run/rudder-relayd"))
    assert units.makes_directory(Path("/var/lib/rudder-relayd"))
    assert not units.makes_directory(Path("/run/a"))
    drop_in = machine / "etc/relayd.service.d"
    drop_in.mkdir()
    (drop_in / "group.conf").write_text("[Service]\nGroup=operators\n")
    assert units.service_group() == ("relayd.service", "operators")
