"""Fixtures for tests of the spool."""

from pathlib import Path

import pytest
import trio.testing


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Return a clock twenty times as fast as real time, so that threads still keep up."""
    return trio.testing.MockClock(rate=20)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return an empty watched directory."""
    path = tmp_path / "incoming"
    path.mkdir()
    return path
