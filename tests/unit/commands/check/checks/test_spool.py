"""Findings about the space and the kind of file systems."""

from pathlib import Path

import pytest

from relayd.commands.check.checks.spool import Space, judge_kind, judge_space
from relayd.commands.check.model import Level

PATH = Path("/spool")
GIB = 2**30
PLENTY = 10_000_000


@pytest.mark.parametrize(
    ("space", "found"),
    [
        pytest.param(Space(63 * 2**20, 2**30, PLENTY, PLENTY), "error spool.space", id="no space"),
        pytest.param(Space(GIB, 100 * GIB, PLENTY, PLENTY), "warning spool.space", id="little"),
        pytest.param(Space(GIB, 2 * GIB, PLENTY, PLENTY), "", id="small disk, half free"),
        pytest.param(Space(10 * GIB, 1000 * GIB, PLENTY, PLENTY), "", id="large disk, 1 % free"),
        pytest.param(Space(GIB, GIB, 999, 2_000), "error spool.inodes", id="no inodes"),
        pytest.param(Space(GIB, GIB, 2_000, PLENTY), "warning spool.inodes", id="few inodes"),
        pytest.param(Space(GIB, GIB, 2_000, 4_000), "", id="few inodes, half of them free"),
        pytest.param(Space(GIB, GIB, 0, 0), "", id="inodes are not counted"),
    ],
)
def test_space_is_judged_by_size_and_share(space: Space, found: str) -> None:
    """Very little space is an error; little space that is also a small share is a warning."""
    levels = [f"{finding.level} {finding.code}" for finding in judge_space(space, PATH, "/")]
    assert levels == [found] * bool(found)


@pytest.mark.parametrize("kind", ["nfs4", "cifs"])
def test_a_network_file_system_is_a_warning(kind: str) -> None:
    """A file system on which inotify does not see other machines is a warning."""
    (finding,) = judge_kind(kind, PATH)
    assert (finding.level, finding.code) == (Level.WARNING, "spool.remote")
    assert kind in finding.what


def test_a_local_file_system_has_no_finding() -> None:
    """A local file system has no finding."""
    assert judge_kind("ext4", PATH) == []
