"""The wheel: what is in it, and that two builds are the same bytes."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from relayd import __version__
from tools.lock import REPOSITORY

EPOCH = "1767225600"


def build(tree: Path, umask: int) -> Path:
    """Return a wheel built from a copy of the sources, in `tree`."""
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    shutil.copytree(
        REPOSITORY / "relayd", tree / "relayd", ignore=shutil.ignore_patterns("__pycache__")
    )
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *options, "."],
        cwd=tree,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
        umask=umask,
        check=True,
    )
    [wheel] = (tree / "dist").iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two wheels of the same sources, built in different places by different people."""
    directory = tmp_path_factory.mktemp("wheels")
    first = build(directory / "one", 0o022)
    for path in (directory / "one" / "relayd").rglob("*.py"):
        os.utime(path, (1, 2_000_000_000))
    return [first, build(directory / "another-name", 0o077)]


@pytest.mark.fault("D.7")
def test_wheel_built_twice_is_the_same_bytes(wheels: list[Path]) -> None:
    """Neither time nor place nor umask of a build shows in the wheel."""
    first, second = wheels
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_wheel_holds_the_package_and_nothing_else(wheels: list[Path]) -> None:
    """The wheel carries relayd's modules, type marker and licence, no tests and no tools."""
    with zipfile.ZipFile(wheels[0]) as archive:
        names = set(archive.namelist())
    package = {name for name in names if name.startswith("relayd/")}
    tree = wheels[0].parent.parent
    sources = (path for path in (tree / "relayd").rglob("*") if path.is_file())
    assert package == {str(path.relative_to(tree)) for path in sources}
    assert "relayd/py.typed" in package
    about = names - package
    assert {name.partition("/")[0] for name in about} == {f"relayd-{__version__}.dist-info"}
    assert f"relayd-{__version__}.dist-info/licenses/LICENSE" in about


def test_wheel_brings_both_commands(wheels: list[Path]) -> None:
    """Installing the wheel gives `relayd` and `rudder-relayd`."""
    with zipfile.ZipFile(wheels[0]) as archive:
        [entry] = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(entry).decode()
    points = ConfigParser()
    points.read_string(text)
    assert {"relayd", "rudder-relayd"} <= points["console_scripts"].keys()
