"""Passwords that are looked for in what a program says."""

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote


def forms(canary: str) -> Iterator[str]:
    """How a password could show: as it is, in a URL, in JSON, in a header."""
    yield canary
    yield quote(canary)
    yield quote(canary, safe="")
    yield json.dumps(canary)[1:-1]
    for user in ("rudder", "rudder_default"):
        yield base64.b64encode(f"{user}:{canary}".encode()).decode().rstrip("=")


def read_archive(path: Path) -> dict[str, str]:
    """Return the text of each file of an archive of `relayd support`, by its name."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            assert member.mode == 0o600
            found[member.name.partition("/")[2]] = file.read().decode()
    return found
