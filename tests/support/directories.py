"""A directory that pytest's own cannot be: open to other accounts, with a short name."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory that every account can enter; its name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="relayd-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
