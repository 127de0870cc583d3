"""The demo's directory: configuration, spool and log of each relayd in it."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from passlib.hash import apr_md5_crypt

from relayd.commands.demo.fleet.delivery import USER
from relayd.commands.demo.fleet.node import SimulatedNode
from relayd.errors import StartError
from relayd.spool.layout import FAILED, INCOMING

NODES_LIST: Final = "nodeslist.json"
CERTIFICATES: Final = "allnodescerts.pem"

#: The command that a remote run calls for the nodes of one policy server, instead of the agents'.
_AGENT: Final = """\
#!/bin/sh
# remote run [-D CONDITIONS] -- HOST,HOST
while [ "$1" != "--" ]; do shift; done
for host in $(echo "$2" | tr , ' '); do
    echo "$host: agent run started by {name}"
    sleep 0.05
done
"""

#: Uploads are taken while the disk has this many bytes free.
_MIN_FREE: Final = 16 * 1024 * 1024

#: Bytes of the path of a socket, unix(7).
_LONGEST: Final = 107

_LOGGING: Final = """\
# Written by `relayd demo`.

[general]
level = "info"
filter = ""
"""


class Workspace:
    """The directory of one relayd of the demo.

    Attributes:
        root: the directory.
        configuration: the argument of `relayd run -c`.
        incoming: where uploads arrive.
        failed: where refused uploads are moved, each with its reason.
        log: relayd's log.
        certificate: PEM file of its certificate.
        control: its control socket.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "etc"
        self.spool = root / "reports"
        self.incoming = self.spool / INCOMING
        self.failed = self.spool / FAILED
        self.log = root / "relayd.log"
        self.certificate = root / "etc" / "server.cert"
        self._key = root / "etc" / "server.key"
        self._passwords = root / "etc" / "htpasswd"
        self._networks = root / "etc" / "networks"
        self._inventories = root / "inventories"
        self._agent = root / "agent"
        self._shared_files = root / "shared-files"
        self._shared_folder = root / "shared-folder"
        self._share = root / "share"
        self._state = root / "state"
        self.control = root / "control.sock"

    def create(self) -> None:
        """Create the directories, not readable for others because they contain passwords.

        Raises:
            StartError: they exist already, or cannot be created.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for directory in (
                *(self.configuration, self.spool, self.incoming, self.failed, self._state),
                self._shared_folder,
            ):
                directory.mkdir(mode=0o750)
        except FileExistsError as error:
            detail = f"{error.filename} exists already; name an empty directory"
            raise StartError(f"cannot prepare {self.root}: {detail}") from error
        except OSError as error:
            raise StartError(f"cannot prepare {self.root}: {error.strerror}") from error

    def write_access(self, node: SimulatedNode, password: str) -> None:
        """Write what relayd reads to serve agents and relays.

        Args:
            node: whose certificate it shows.
            password: that they must have.
        """
        self.certificate.write_bytes(node.certificate_pem())
        self._key.touch(mode=0o600)
        self._key.write_bytes(node.key_pem())
        self._passwords.touch(mode=0o640)
        self._passwords.write_text(f"{USER}:{apr_md5_crypt.hash(password)}\n")
        self._networks.write_text("Require local\n")

    def write_configuration(
        self,
        name: str,
        general: Mapping[str, object],
        listen: str,
        output: str,
        **to: Mapping[str, object],
    ) -> None:
        """Write `main.conf`, `logging.conf` and the agents' command.

        Args:
            name: name of this policy server in the agents' output.
            general: further keys of the table `general`.
            listen: address for agents and relays.
            output: `database` or `upstream`.
            to: keys of the tables `output.NAME`, by NAME.
        """
        tables: dict[str, Mapping[str, object]] = {
            "general": {
                "nodes_list_file": self.configuration / NODES_LIST,
                "nodes_certs_file": self.configuration / CERTIFICATES,
                "control_socket": self.control if len(bytes(self.control)) <= _LONGEST else "",
                "state_directory": self._state,
                **general,
            },
            "processing.reporting": {
                "directory": self.spool,
                "output": output,
                "settle_time": "2s",
            },
            "processing.reporting.catchup": {"frequency": "2s", "limit": 50},
            "processing.inventory": {"directory": self._inventories},
            "server": self._server(listen),
            **{f"output.{table}": keys for table, keys in to.items()},
            "remote_run": {"command": self._agent, "use_sudo": False},
            "shared_files": {"path": self._shared_files},
            "shared_folder": {"path": self._shared_folder},
        }
        main = self.configuration / "main.conf"
        main.touch(mode=0o640)
        text = "".join(_toml(table, keys) for table, keys in tables.items())
        main.write_text(f"# Written by `relayd demo`.\n{text}")
        (self.configuration / "logging.conf").write_text(_LOGGING)
        self._agent.write_text(_AGENT.format(name=name))
        self._agent.chmod(0o750)

    def _server(self, listen: str) -> dict[str, object]:
        return {
            "listen": [listen],
            "certificate_file": self.certificate,
            "key_file": self._key,
            "passwords_file": self._passwords,
            "initial_passwords_file": self._passwords,
            "networks_file": self._networks,
            "policy_servers_file": self._networks,
            "share_directory": self._share,
            "min_free_space": _MIN_FREE,
        }

    def remove_all_but_log(self) -> None:
        """Remove everything except relayd's log."""
        self._agent.unlink(missing_ok=True)
        for path in (
            *(self.configuration, self.spool, self._inventories),
            *(self._shared_files, self._shared_folder, self._share, self._state),
        ):
            shutil.rmtree(path, ignore_errors=True)


class Layout:
    """The directory of a demo.

    Attributes:
        root: the directory.
        server: workspace of the root server.
        relays: workspaces of the relays.
        postgres: directory of the embedded database server.
    """

    def __init__(self, root: Path, relays: int) -> None:
        self.root = root
        self.server = Workspace(root)
        self.relays = [Workspace(root / f"relay-{number}") for number in range(1, relays + 1)]
        self.postgres = root / "postgres"

    @property
    def workspaces(self) -> list[Workspace]:
        """The workspaces of every relayd, the root server's first."""
        return [self.server, *self.relays]

    def create(self) -> None:
        """Create the directories of every relayd.

        Raises:
            StartError: they exist already, or cannot be created.
        """
        for workspace in self.workspaces:
            workspace.create()

    def remove_all_but_logs(self) -> None:
        """Remove everything except the logs; remove those too if relayd never ran."""
        if not self.server.log.exists():
            self.remove()
            return
        for workspace in self.workspaces:
            workspace.remove_all_but_log()
        for path in self.postgres.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        for directory in (self.postgres, *(relay.root for relay in self.relays)):
            with suppress(OSError):
                directory.rmdir()

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def _toml(table: str, keys: Mapping[str, object]) -> str:
    # Strings, numbers and booleans of JSON are valid TOML.
    lines = (
        f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}\n"
        for key, value in keys.items()
    )
    return f"\n[{table}]\n{''.join(lines)}"
