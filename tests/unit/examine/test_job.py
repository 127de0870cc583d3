"""Examination of files, as a thread or a worker does it."""

from pathlib import Path

import pytest

from relayd.examine import job as module
from relayd.examine.job import Job, Setup, examine


def test_slow_files_end_a_call_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has taken its time gives back what it has, at least one result."""
    monkeypatch.setattr(module, "CALL_S", -1.0)
    jobs = [Job(f"{number}.log", "", "node1", ()) for number in range(3)]
    assert len(examine(Setup(str(tmp_path), 1000, frozenset()), jobs)) == 1
