"""The demo's directory: relayd's configuration, its spool, its log."""

import json
import shutil
from pathlib import Path
from typing import Final

from relayd.demo.fleet import CERTIFICATES, NODES_LIST
from relayd.demo.pgserver import Connection
from relayd.errors import StartError

_MAIN: Final = """\
# Written by `relayd demo`.

[general]
nodes_list_file = {nodes}
nodes_certs_file = {certificates}
node_id = "root"
listen = {listen}

[processing.reporting]
directory = {spool}
output = "database"
settle_time = "2s"
catchup = {{ frequency = "2s", limit = 50 }}

[output.database]
url = {url}
password = {password}
"""

_LOGGING: Final = """\
# Written by `relayd demo`.

[general]
level = "info"
filter = ""
"""


class Workspace:
    """Everything the demo writes, below one directory.

    Attributes:
        root: the directory.
        configuration: what `relayd run -c` takes.
        incoming: where uploads arrive.
        failed: where refused ones end, each with its reason.
        log: what relayd writes.
        postgres: directory of the embedded server.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "etc"
        self.spool = root / "reports"
        self.incoming = self.spool / "incoming"
        self.failed = self.spool / "failed"
        self.log = root / "relayd.log"
        self.postgres = root / "postgres"

    def create(self) -> None:
        """Makes the directories, unreadable for others: there are passwords in them.

        Raises:
            StartError: they exist already, or cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for directory in (self.configuration, self.spool, self.incoming, self.failed):
                directory.mkdir(mode=0o750)
        except OSError as error:
            raise StartError(f"cannot prepare {self.root}: {error.strerror}") from error

    def write_configuration(self, database: Connection, port: int) -> None:
        """Writes `main.conf` and `logging.conf`.

        Args:
            database: what relayd connects to.
            port: TCP port of its API on 127.0.0.1.
        """
        values = {
            "nodes": self.configuration / NODES_LIST,
            "certificates": self.configuration / CERTIFICATES,
            "listen": f"127.0.0.1:{port}",
            "spool": self.spool,
            "url": database.url,
            "password": database.password,
        }
        # JSON's string literals are TOML's basic strings.
        quoted = {key: json.dumps(str(value)) for key, value in values.items()}
        main = self.configuration / "main.conf"
        main.touch(mode=0o640)
        main.write_text(_MAIN.format_map(quoted))
        (self.configuration / "logging.conf").write_text(_LOGGING)

    def remove_all_but_logs(self) -> None:
        """Removes everything but relayd's and PostgreSQL's logs; all, when relayd never ran."""
        if not self.log.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            return
        data = [path for path in self.postgres.glob("*") if path.is_dir()]
        for directory in (self.configuration, self.spool, *data):
            shutil.rmtree(directory, ignore_errors=True)
