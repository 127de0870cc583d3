"""A nodes list and a certificates file for tests."""

import json
import re
from pathlib import Path

import pytest

from relayd.errors import NodesError
from relayd.fleet.loading import Loaded, load_list, load_nodes
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
        """Load both files; commands, which read the list at once, find the same in it."""
        try:
            loaded = load_nodes(self.list_file, self.certs_file, my_id, previous)
        except NodesError as error:
            if error.file == self.list_file:
                with pytest.raises(NodesError, match=f"^{re.escape(str(error))}$"):
                    load_list(self.list_file)
            raise
        found = load_list(self.list_file)
        if not loaded.list_missing:
            assert found == {node: loaded.nodes.get(node) for node in loaded.nodes.ids()}
        return loaded
