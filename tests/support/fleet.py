"""A nodes list and a certificates file for tests."""

import json
from pathlib import Path

from relayd.fleet.loading import Loaded, load_nodes
from relayd.fleet.nodes import Nodes

Entries = dict[str, dict[str, object]]


def entry(policy_server: str = "root", **more: object) -> dict[str, object]:
    return {"hostname": "h.example.org", "policy-server": policy_server, **more}


class Fleet:
    """A directory with the two files."""

    def __init__(self, directory: Path) -> None:
        self.list_file = directory / "nodeslist.json"
        self.certs_file = directory / "allnodescerts.pem"

    def write(self, entries: Entries, *certificates: bytes) -> None:
        """Write both files."""
        self.list_file.write_text(json.dumps(entries, indent=2))
        self.certs_file.write_bytes(b"".join(certificates))

    def load(self, my_id: str = "root", previous: Nodes | None = None) -> Loaded:
        """Load both files."""
        return load_nodes(self.list_file, self.certs_file, my_id, previous)
