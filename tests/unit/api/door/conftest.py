"""A front door in this process."""

from pathlib import Path

import pytest

from tests.support.ledger import fleet
from tests.support.ports import free_port
from tests.support.webserver import Web, write_web


@pytest.fixture
def web(tmp_path: Path) -> Web:
    """Return what the front door reads, and its spool."""
    return write_web(Web("door", tmp_path, free_port(), fleet()))
