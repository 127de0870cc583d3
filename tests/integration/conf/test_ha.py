"""The files for a replicated database: what HAProxy, PgBouncer and Patroni make of them."""

import re
import subprocess
from pathlib import Path

import pytest

from relayd.commands.demo.cluster import programs, shipped
from relayd.commands.demo.cluster.cluster import Cluster
from relayd.errors import StartError
from tests.support.clustered import needs_programs
from tests.support.daemon import NOWHERE
from tests.support.pgbouncer import PoolMode, open_shipped_pgbouncer
from tests.support.ports import free_port
from tests.support.project import CONF

#: What Patroni says about a cluster on one machine whose etcd does not run.
_ON_ONE_MACHINE = re.compile(r'must not contain "127\.0\.0\.1"|127\.0\.0\.1:\d+ is not reachable')


def test_haproxy_accepts_the_shipped_file() -> None:
    """`haproxy -c` has neither an error nor a warning."""
    needs_programs()
    command = [str(programs.find_programs().haproxy), "-c", "-f", str(CONF / "ha" / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("synchronous", [False, True])
def test_patroni_accepts_the_shipped_file(tmp_path: Path, synchronous: bool) -> None:
    """`patroni --validate-config` has no objection that other machines would not remove."""
    needs_programs()
    cluster = Cluster(tmp_path, synchronous=synchronous, free_port=free_port)
    configuration = cluster.machines["db1"].data.parent / "patroni.yml"
    command = ["patroni", "--validate-config", str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    assert said, "nothing was validated"
    assert [line for line in said if not _ON_ONE_MACHINE.search(line)] == []


def test_another_patroni_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """RELAYD_PATRONI goes before the Patroni of the distribution."""
    monkeypatch.setenv("RELAYD_PATRONI", "/opt/patroni/bin/patroni")
    needs_programs()
    assert programs.find_programs().patroni == Path("/opt/patroni/bin/patroni")


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pgbouncer_starts_with_the_shipped_file(mode: PoolMode) -> None:
    """PgBouncer takes every line of it, in both modes."""
    with open_shipped_pgbouncer(NOWHERE, mode) as port:
        assert port


def test_another_machine_differs_where_the_file_says_so() -> None:
    """Only addresses and names in lines marked as "this machine" differ between machines."""
    ports = {name: shipped.Ports(4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3) for n, name in _NUMBERED}
    first, second = (
        shipped.patroni_file(name, ports, {}, synchronous=True).splitlines()
        for name in shipped.MEMBERS[:2]
    )
    differing = [new for old, new in zip(first, second, strict=True) if old != new]
    assert differing
    assert all(line.endswith("# this machine") for line in differing)
    assert not [line for line in second if "192.0.2." in line.partition("#")[0]]


_NUMBERED = list(enumerate(shipped.MEMBERS, 1))


def test_what_a_file_does_not_contain_is_not_replaced_silently() -> None:
    """A line that was changed in a shipped file fails the tests that rely on it."""
    with pytest.raises(ValueError, match="does not contain 'ttl: 31'"):
        shipped.fill("ttl: 30", {"ttl: 31": "ttl: 20"})


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(StartError, match="apt install etcd-server patroni haproxy"):
        programs.find_programs()
