"""The Debian package: built, installed, started, removed, on a machine of its own."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from relayd import __version__
from tests.packaging.conftest import build_package
from tests.support.daemon import make_site, open_daemon
from tests.support.ledger import fleet
from tests.support.machine import Machine, open_machine
from tests.support.packages import install
from tests.support.postgres import Database

CONF = "/opt/rudder/etc/relayd"
UNITS = "/usr/lib/systemd/system"
STATE = "/var/lib/rudder-relayd"
DOCUMENTS = "/usr/share/doc/relayd"
#: What installing and purging any package that brings an account changes.
TRACES = (
    "/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow", "/etc/.pwd.lock",
    "/etc/subuid", "/etc/subgid", "/var/cache/man", "/var/lib/dpkg", "/var/log/dpkg.log",
)  # fmt: skip


@pytest.fixture
def machine(package: Path, tmp_path: Path) -> Iterator[Machine]:
    """Yield a machine of one test that can reach the package file, and has not installed it."""
    with open_machine(tmp_path) as machine:
        machine.share(package.parent)
        yield machine


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yield a machine with the package installed, for tests that change nothing in it."""
    with open_machine(tmp_path_factory.mktemp("machine")) as machine:
        machine.share(package.parent)
        install(machine, package)
        yield machine


def leftovers(machine: Machine) -> set[str]:
    """Return what differs from before, except what dpkg and accounts leave."""
    return {path for path in machine.changes() if not path.startswith(TRACES)}


@pytest.mark.fault("D.7")
def test_package_built_twice_is_the_same_bytes(
    package: Path, source_tree: Path, tmp_path: Path
) -> None:
    """Neither place nor time nor umask of a build shows in the package."""
    tree = tmp_path / "elsewhere"
    shutil.copytree(source_tree, tree)
    for path in tree.rglob("*"):
        os.utime(path, (1, 2_000_000_000))
    again = build_package(tree, tmp_path / "deb", umask=0o077)
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_package_carries_its_name_version_and_needs(package: Path) -> None:
    """The control file has the version of the sources, and asks for the Python it is made for."""
    text = subprocess.run(
        ["dpkg-deb", "--field", str(package)], capture_output=True, check=True, text=True
    ).stdout
    fields = Parser().parsestr(text)
    assert (fields["Package"], fields["Version"]) == ("relayd", f"{__version__}-1")
    assert fields["Depends"].startswith("python3.")
    assert fields["Architecture"] != "all"


def test_installed_commands_run_from_the_private_environment(installed: Machine) -> None:
    """Both commands are in the path and use nothing but the package's own environment."""
    for name in ("relayd", "rudder-relayd"):
        assert installed.run(name, "--version").stdout == f"{name} {__version__}\n"
    where = "import relayd, trio; print(relayd.__file__, trio.__file__, sep='\\n')"
    shown = installed.run("/usr/lib/relayd/bin/python", "-I", "-c", where).stdout.split()
    assert all(path.startswith("/usr/lib/relayd/lib/") for path in shown)


def test_installed_files_stay_as_dpkg_knows_them(installed: Machine) -> None:
    """Every file is as packaged, also after root has run relayd: nothing is compiled."""
    installed.run("relayd", "inspect", "--help")
    installed.run("rudder-relayd", "--test", check=False)
    assert installed.run("dpkg", "--verify", "relayd").stdout == ""
    listed = set(installed.run("dpkg", "--listfiles", "relayd").stdout.split())
    below = installed.shell("find /usr/lib/relayd ! -type d").split()
    assert set(below) <= listed


def test_installation_makes_account_directories_and_configuration(installed: Machine) -> None:
    """The service user, the spool and a configuration exist; others cannot read the latter."""
    assert "rudder" in installed.shell("id --name --groups rudder-relayd").split()
    shown = installed.shell(
        'stat --format "%n %A %U %G" "$@"',
        f"{CONF}/main.conf",
        f"{CONF}/logging.conf",
        "/var/rudder/reports/incoming",
    )
    assert shown.splitlines() == [
        f"{CONF}/main.conf -rw------- rudder-relayd root",
        f"{CONF}/logging.conf -rw-r--r-- root root",
        "/var/rudder/reports/incoming drwxrws--- root rudder",
    ]


def test_installation_brings_pages_units_and_documents(installed: Machine) -> None:
    """Man pages, units, licences, bill of materials and examples are where Debian has them."""
    for page in ("1/relayd.1", "1/rudder-relayd.1", "5/relayd.conf.5"):
        installed.run("gzip", "--test", f"/usr/share/man/man{page}.gz")
    documents = set(installed.shell(f"cd {DOCUMENTS} && ls").split())
    assert {"README.Debian", "README.md", "copyright", "docs", "relayd.cdx.json"} <= documents
    assert "apache" in installed.shell(f"ls {DOCUMENTS}/examples").split()
    assert "relayd.service" in installed.shell(f"ls {UNITS}").split()


@pytest.mark.fault("F41")
def test_installed_documents_lead_to_each_other(installed: Machine) -> None:
    """Each link of an installed document leads to one that is installed, except to the tests."""
    root = installed.outside / DOCUMENTS[1:]
    documents = [root / "README.md", *root.glob("docs/*.md")]
    assert {"guide.md", "configuration.md", "licences.md"} <= {path.name for path in documents}
    for document in documents:
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        targets = {link for link in links if not link.startswith("../tests/")}
        missing = [link for link in targets if not (document.parent / link).exists()]
        assert missing == [], document


def test_enabled_unit_takes_the_place_of_the_other_daemon(machine: Machine, package: Path) -> None:
    """Only when it is enabled does relayd answer to the other's name; disabled, it goes back."""
    own = f"{UNITS}/rudder-relayd.service"
    machine.shell(f"printf '[Service]\\nExecStart=/opt/rudder/bin/other\\n' > {own}")

    def other_counts() -> bool:
        """Whether systemd takes the name for that unit, whose program is not there."""
        found = machine.run("systemd-analyze", "verify", "rudder-relayd.service", check=False)
        return "/opt/rudder/bin/other" in found.stdout

    install(machine, package)
    assert other_counts()
    machine.run("systemctl", "enable", "relayd.service")
    assert not other_counts()
    machine.run("systemctl", "disable", "relayd.service")
    assert other_counts()
    machine.run("systemctl", "enable", "relayd.service")
    machine.run("dpkg", "--remove", "relayd")
    assert other_counts()


def test_installed_units_are_understood(installed: Machine) -> None:
    """Systemd finds nothing wrong with the installed units, and their programs exist."""
    units = installed.shell(
        f"dpkg --listfiles relayd | grep ^{UNITS}/ | xargs -n1 basename"
    ).split()
    installed.run("systemd-analyze", "verify", "--man=no", *units)


async def test_installed_daemon_takes_a_run_log_into_the_database(
    installed: Machine, database: Database
) -> None:
    """The daemon as installed, as its own user, inserts what a node uploads."""
    nodes = fleet(["node0"])
    user = int(installed.shell("id --user rudder-relayd"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        site = make_site(root, database.rudder, nodes)
        for path in (root, *root.rglob("*")):
            os.chown(path, user, user)
        installed.share(root)
        async with open_daemon(
            site,
            env={"HOME": "/var/rudder"},
            wrapper=installed.wrapper("rudder-relayd:rudder"),
            python=(),
            program=["rudder-relayd"],
        ) as daemon:
            site.send(next(iter(nodes)))
            await daemon.settled()
            assert await daemon.metric("rudder_relayd_reports_total", status="ok") == 1
            running = Path(f"/proc/{daemon.process.pid}")
            assert running.stat().st_uid == user
            assert b"/usr/lib/relayd/bin/python" in (running / "cmdline").read_bytes()
            assert await daemon.stop() == 0
        assert site.refused() == {}


def test_what_was_there_or_was_changed_outlives_the_package(
    machine: Machine, package: Path
) -> None:
    """Configuration that exists or is edited, and waiting run logs, stay from install to purge."""
    run_log = "/var/rudder/reports/incoming/a.log"
    machine.shell(f"mkdir -p {CONF} {Path(run_log).parent}; umask 027; echo x > {run_log}")
    machine.shell(f"umask 027; echo '# mine' > {CONF}/main.conf")
    before = machine.shell(f'stat --format "%a %u %g %Y" {CONF}/main.conf')
    install(machine, package)
    machine.shell(f"echo '# edited' > {CONF}/logging.conf")
    install(machine, package)
    machine.run("dpkg", "--purge", "relayd")
    shown = machine.shell(f"cat {CONF}/main.conf {CONF}/logging.conf {run_log}")
    assert shown == "# mine\n# edited\nx\n"
    assert machine.shell(f'stat --format "%a %u %g %Y" {CONF}/main.conf') == before


def test_purged_package_leaves_nothing(machine: Machine, package: Path) -> None:
    """Removing leaves the configuration only; purging leaves the account only."""
    install(machine, package)
    machine.run("systemctl", "enable", "relayd.service")
    # systemd would have made it: StateDirectory= of the unit.
    machine.shell(f"install -d -m 0750 {STATE}; touch {STATE}/paused.json")
    machine.run("dpkg", "--remove", "relayd")
    kept = {f"{CONF}/main.conf", f"{CONF}/logging.conf", f"{STATE}/paused.json"}
    assert kept <= leftovers(machine)
    machine.run("dpkg", "--purge", "relayd")
    # What this machine itself has there counts as changed once it is gone.
    assert leftovers(machine) <= {STATE}
    assert machine.run("test", "-e", STATE, check=False).returncode == 1
    machine.run("id", "rudder-relayd")
