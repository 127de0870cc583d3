"""Parsing of requirements.lock, and the limit on relayd's dependencies."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tools.lock import (
    REPOSITORY,
    LockError,
    closure,
    direct_dependencies,
    normalise,
    read_lock,
    runtime_lock,
)

A = "a" * 64
B = "b" * 64
LOCK = f"""\
# made by a tool
first==1.0 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via relayd (pyproject.toml)
second-part==2.0 ; python_full_version < '3.13' \\
    --hash=sha256:{A}
    # via
    #   first
    #   tester
third==3.0 \\
    --hash=sha256:{B}
    # via second-part
tester==4.0 \\
    --hash=sha256:{B}
    # via -r build/in.txt
"""

MOST_DIRECT = 16


def test_lock_packages_are_read_with_versions_hashes_and_parents() -> None:
    """Each package is read with its version, marker, hashes and parents."""
    lock = read_lock(LOCK)
    assert list(lock) == ["first", "second-part", "third", "tester"]
    second = lock["second-part"]
    assert (second.version, second.marker) == ("2.0", "python_full_version < '3.13'")
    assert lock["first"].hashes == (A, B)
    assert lock["first"].needed_by == ("relayd",)
    assert second.needed_by == ("first", "tester")


def test_lock_runtime_part_has_no_tools() -> None:
    """The runtime part contains the direct dependencies and their own, and is a valid lock."""
    lock = read_lock(LOCK)
    part = closure(lock, ["first"])
    assert list(part) == ["first", "second-part", "third"]
    assert read_lock("".join(package.text for package in part.values())) == part


@pytest.mark.fault("D.7")
@pytest.mark.parametrize(
    "text",
    [
        "first==1.0\n",
        "first==1.0 \\\n    # via x\n",
        f"first>=1.0 \\\n    --hash=sha256:{A}\n",
        f"first==1.0 \\\n    --hash=md5:{A}\n",
    ],
    ids=["no-hash", "only-via", "range", "other-hash"],
)
def test_lock_without_pin_or_hash_is_refused(text: str) -> None:
    """A package without a pinned version or without SHA-256 hashes is an error."""
    with pytest.raises(LockError):
        read_lock(text)


def test_lock_missing_dependency_is_reported() -> None:
    """A direct dependency that is not in the lock is named."""
    with pytest.raises(LockError, match="absent"):
        closure(read_lock(LOCK), ["first", "absent"])


def test_lock_names_are_normalised() -> None:
    """Names in pyproject.toml are found in the lock in any spelling."""
    assert normalise("Quart_Trio") == "quart-trio"
    pyproject = '[project]\ndependencies = ["A_b>=1,<2", "c[extra]==3", "d ; python_version > 3"]\n'
    assert direct_dependencies(pyproject) == ["a-b", "c", "d"]
    extra = f'{pyproject}[project.optional-dependencies]\nmore = ["E>=1"]\n'
    assert direct_dependencies(extra, "more") == ["a-b", "c", "d", "e"]


def test_relayd_has_few_direct_dependencies_all_locked() -> None:
    """At most 16 packages are direct dependencies, and all dependencies are locked."""
    direct = direct_dependencies((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert len(direct) <= MOST_DIRECT
    assert set(direct) <= runtime_lock().keys()
    # The HTTP client needs it in web browsers only.
    assert "httpx2-jsfetch" not in runtime_lock()


@pytest.mark.fault("F46")
def test_demo_needs_none_of_the_development_tools() -> None:
    """`make demo` installs what it imports: no type checker, no linter, no test runner."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    lock = read_lock((REPOSITORY / "requirements.lock").read_text(encoding="utf-8"))
    demo = closure(lock, direct_dependencies(text, "demo"))
    assert set(runtime_lock()) < set(demo)
    assert not {"mypy", "ruff", "pytest", "schemathesis", "hypothesis", "pip"} & set(demo)
    assert len(demo) < 50 < len(lock)
    recipe = (REPOSITORY / "Makefile").read_text().partition("build/demo/.installed:")[2]
    assert "tools.lock --extra demo" in recipe.partition("\n\n")[0]


@pytest.mark.parametrize(
    ("age", "used"), [(None, "build/demo"), (10, "build/demo"), (-10, ".venv")]
)
def test_demo_does_not_renew_a_stale_environment_of_developers(
    tmp_path: Path, age: int | None, used: str
) -> None:
    """With a .venv older than the lock, `make demo` installs its own third of the lock."""
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools/lock.py"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    if age is not None:
        mark = tmp_path / ".venv" / ".installed"
        mark.parent.mkdir()
        mark.touch()
        at = (tmp_path / "requirements.lock").stat().st_mtime - age
        os.utime(mark, (at, at))
    done = subprocess.run(
        ["make", "-n", "demo"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    places = re.findall(r"(\S+)/bin/python -m relayd demo", done.stdout)
    assert places == [used], done.stdout
