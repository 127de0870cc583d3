"""Fixtures of the spool's tests."""

from pathlib import Path

import pytest
import trio.testing


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """A clock twenty times as fast as the wall's: delays pass quickly, threads get their time."""
    return trio.testing.MockClock(rate=20)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty watched directory."""
    path = tmp_path / "incoming"
    path.mkdir()
    return path
