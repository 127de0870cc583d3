"""The page of faults and its check."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

TOOL = ROOT / "tools" / "faults.py"

ROWS = """
[[group]]
title = "Spool"
later = ["S3"]
[group.rows]
S1 = "the first"
S2 = "the second"
S3 = "not built yet"
[[group]]
title = "Field failures"
history = true
[group.rows]
1 = "happened once"
"""

TESTS = """
import pytest

@pytest.mark.fault("S1")
@pytest.mark.history(1)
def test_first(): ...

@pytest.mark.parametrize("case", [
    pytest.param(1, marks=pytest.mark.fault("S2")),
    pytest.param(2, marks=pytest.mark.fault("S2")),
    3,
])
def test_second(case): ...
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository whose page was written."""
    path = tmp_path_factory.mktemp("repository")
    (path / "tests").mkdir()
    (path / "tests" / "faults.toml").write_text(ROWS)
    (path / "tests" / "test_sample.py").write_text(TESTS)
    assert faults(path).returncode == 0
    return path


@pytest.fixture
def repository(written: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to change."""
    unwanted = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(written, tmp_path / "repository", ignore=unwanted))


def faults(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOL, "--root", repository, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_table_names_the_tests_of_each_row(written: Path) -> None:
    """The page lists the tests of each row and how many of their parameters name it."""
    page = (written / "docs" / "faults.md").read_text()
    assert "| S1 | the first | [test_first](../tests/test_sample.py) |" in page
    assert "| S2 | the second | 2 x [test_second](../tests/test_sample.py) |" in page
    assert "| S3 | not built yet | *later* |" in page
    assert "| H1 | happened once | [test_first](../tests/test_sample.py) |" in page


def test_check_accepts_a_table_that_is_current(written: Path) -> None:
    """The check passes right after the page was written."""
    assert faults(written, "--check").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('fault("S1")', 'fault("S3")', "no test proves S1: the first"),
        ('fault("S1")', 'fault("S1", "X9")', "test_first names X9"),
        ("def test_first", "def test_renamed", "docs/faults.md is stale"),
        ("import pytest", "import nothing_of_that_name", "nothing_of_that_name"),
    ],
)
def test_check_fails(repository: Path, old: str, new: str, problem: str) -> None:
    """The check reports a gap, an unknown fault, a stale page and a broken test file."""
    sample = repository / "tests" / "test_sample.py"
    sample.write_text(TESTS.replace(old, new, 1))
    done = faults(repository, "--check")
    assert done.returncode == 1
    assert problem in done.stdout + done.stderr
