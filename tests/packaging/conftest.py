"""What the tests of packaging share: the Debian package, built once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.lock import REPOSITORY

EPOCH = "1767225600"
#: What a package is built from.
SOURCES = (
    "CHANGELOG.md",
    "benchmarks",
    "LICENSE",
    "README.md",
    "conf",
    "docs",
    "man",
    "packaging",
    "pyproject.toml",
    "relayd",
    "requirements.lock",
    "selinux",
    "systemd",
    "tools",
)


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the sources as they are at one moment, without anything built."""
    tree = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tree / name, ignore=unwanted)
        else:
            shutil.copy(REPOSITORY / name, tree)
    return tree


def build_package(tree: Path, directory: Path, umask: int = 0o022) -> Path:
    """Return the Debian package of a source tree, built into a directory."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    subprocess.run(
        [sys.executable, "-m", "tools.deb", str(directory)],
        cwd=tree,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
        umask=umask,
        check=True,
    )
    [package] = directory.glob("*.deb")
    return package


@pytest.fixture(scope="session")
def package(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Debian package."""
    return build_package(source_tree, tmp_path_factory.mktemp("deb"))
