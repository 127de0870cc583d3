"""A server as Rudder's packages leave it: accounts, directories, owners, modes and configuration.

Only the directories with files belong to the web server and to group rudder; those above them
belong to root. Passwords are still empty, and some files are written only later.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support.daemon import Site
from tests.support.machine import Machine

Role = Literal["root", "relay"]

#: Runs in the machine: accounts first, then directories from the top.
_ACCOUNTS: Final = """
getent group rudder || groupadd --system rudder
getent group rudder-policy-reader || groupadd --system rudder-policy-reader
getent passwd www-data || useradd --system --user-group www-data
usermod -a -G rudder-policy-reader www-data
for name in rudder-relayd rudder; do
    getent passwd $name || useradd --system --shell /bin/false --gid rudder \\
        --home-dir /var/rudder $name
done
"""
#: Path, owner, group, mode; files are those with a content.
_DIRECTORIES: Final = (
    ("/opt/rudder/bin", "root:root", "0755"),
    ("/opt/rudder/etc", "root:root", "0755"),
    ("/opt/rudder/etc/relayd", "root:rudder", "0750"),
    ("/var/rudder", "root:root", "0755"),
    ("/var/rudder/reports", "root:root", "0755"),
    ("/var/rudder/reports/incoming", "www-data:rudder", "0770"),
    ("/var/rudder/reports/failed", "www-data:rudder", "0770"),
    ("/var/rudder/inventories", "www-data:rudder", "0750"),
    ("/var/rudder/inventories/incoming", "www-data:rudder", "0770"),
    ("/var/rudder/inventories/accepted-nodes-updates", "www-data:rudder", "0770"),
    ("/var/rudder/inventories/failed", "www-data:rudder", "0770"),
    ("/var/rudder/shared-files", "rudder-relayd:rudder", "0770"),
    ("/var/rudder/configuration-repository", "root:root", "0755"),
    ("/var/rudder/configuration-repository/shared-files", "root:rudder", "2750"),
    ("/var/rudder/lib", "root:root", "0755"),
    ("/var/rudder/lib/relay", "root:root", "0755"),
    ("/var/rudder/lib/ssl", "root:root", "0755"),
)
_FILES: Final = {
    "/opt/rudder/etc/uuid.hive": ("root:root", "0644"),
    "/opt/rudder/etc/relayd/main.conf": ("root:rudder", "0640"),
    "/opt/rudder/etc/relayd/logging.conf": ("root:rudder", "0640"),
    "/var/rudder/lib/relay/nodeslist.json": ("rudder-relayd:rudder", "0640"),
    "/var/rudder/lib/ssl/allnodescerts.pem": ("root:rudder", "0640"),
}
#: Inventories before the mode of their directory was changed.
OLDER: Final = ("/var/rudder/inventories", "root:root", "0755")


@dataclass
class Server(Site):
    """A server of either role on a machine; its paths are those in the machine.

    Attributes:
        machine: where it is; `root` is where its file system is seen from outside.
        role: of the server.
    """

    machine: Machine | None = None
    role: Role = "root"

    @property
    def conf(self) -> Path:
        """The configuration directory, as programs in the machine see it."""
        return Path("/opt/rudder/etc/relayd")

    @property
    def incoming(self) -> Path:
        """Where agents' run logs arrive, as seen from outside."""
        return self.root / "var/rudder/reports/incoming"

    @property
    def failed(self) -> Path:
        """Where refused ones go, as seen from outside."""
        return self.root / "var/rudder/reports/failed"

    def lay_out(self, *, older: bool = False) -> None:
        """Do what installing Rudder's packages does, before anything else is configured."""
        self.shell(_ACCOUNTS)
        for path, owner, mode in (*_DIRECTORIES, *([OLDER] if older else [])):
            self.shell(f"mkdir -p {path}; chown {owner} {path}; chmod {mode} {path}")
        for path, content in self.files().items():
            (self.root / path[1:]).write_text(content)
            owner, mode = _FILES[path]
            self.shell(f"chown {owner} {path}; chmod {mode} {path}")

    def files(self) -> dict[str, str]:
        """Return the files that are there: a relay has no nodes list before its first policies."""
        node_id = "root" if self.role == "root" else "5b5c6a5d-8f2e-4f0c-9f86-relay0000001"
        files = {
            "/opt/rudder/etc/uuid.hive": f"{node_id}\n",
            "/opt/rudder/etc/relayd/main.conf": self.main_conf(),
            "/opt/rudder/etc/relayd/logging.conf": '[general]\nlevel = "info"\n',
            "/var/rudder/lib/ssl/allnodescerts.pem": "",
        }
        if self.role == "root":
            files["/var/rudder/lib/relay/nodeslist.json"] = "{}"
        return files

    def main_conf(self) -> str:
        """Return the configuration of the role, with the passwords that are not known yet."""
        inventory, reporting = {
            "root": ("disabled", "database"),
            "relay": ("upstream", "upstream"),
        }[self.role]
        where = f"{self.database.host}:{self.database.port}"
        return f"""
            [general]
            listen = "127.0.0.1:{self.port}"
            nodes_certs_file = "/var/rudder/lib/ssl/allnodescerts.pem"
            [processing.inventory]
            output = "{inventory}"
            [processing.reporting]
            output = "{reporting}"
            [output.database]
            url = "postgres://{self.database.user}@{where}/{self.database.database}"
            password = ""
            [output.upstream]
            host = "{"" if self.role == "root" else "policy-server.test"}"
            user = "rudder"
            password = ""
        """

    def receive(self, path: str, content: bytes) -> Path:
        """Upload a file as the web server does, as its user; return its path from outside."""
        target = self.root / path[1:]
        temporary = target.parent / ".davfs.tmp1"
        temporary.write_bytes(content)
        inside = f"{Path(path).parent}/{temporary.name}"
        self.shell('chown www-data:www-data "$1"; chmod 0644 "$1"; mv "$1" "$2"', inside, path)
        return target

    def shell(self, script: str, *arguments: str) -> str:
        """Run a script in the machine as root; return what it prints."""
        assert self.machine is not None
        return self.machine.shell(script, *arguments)

    def modes(self) -> str:
        """Return owner, group and mode of everything that packages laid out."""
        paths = [*(path for path, _, _ in _DIRECTORIES), *self.files()]
        return self.shell('stat --format "%n %U:%G %a" "$@"', *paths)

    def wrapper(self) -> list[str]:
        """Return the command that runs another one in the machine as the service user."""
        assert self.machine is not None
        return self.machine.wrapper("rudder-relayd:rudder")


def make_server(
    machine: Machine, role: Role, port: int, database: ConnectionInfo, *, older: bool = False
) -> Server:
    """Lay out a server on a machine."""
    server = Server(machine.outside, port, database, machine=machine, role=role)
    server.lay_out(older=older)
    return server


def install(machine: Machine, package: Path) -> str:
    """Install a package that the machine can reach, without any network; return dpkg's words."""
    return machine.run(
        "unshare", "--net", "dpkg", "--no-triggers", "--install", str(package)
    ).stdout


def repack(package: Path, directory: Path, version: str, extra: str) -> Path:
    """Return a package as an earlier or later release: another version, and one more file.

    Args:
        package: the package to change.
        directory: where to write the other one.
        version: its version.
        extra: path of a file that only this release has.
    """
    tree = directory / f"tree-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines(keepends=True)
    control.write_text(
        "".join(f"Version: {version}\n" if line.startswith("Version:") else line for line in lines)
    )
    (tree / extra.lstrip("/")).write_text(f"{version}\n")
    target = directory / f"relayd_{version}.deb"
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target
