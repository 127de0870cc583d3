"""Shared files when the process is killed at any step, on full disks, and under strace(1)."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.shared.expiry import sweep
from relayd.shared.metadata import parse_metadata
from relayd.shared.store import STAGE_PREFIX, Store
from tests.support.shared import joined, lines, sha512
from tests.support.shared_child import METADATA, NEW, SOURCE, TARGET, store_pair

PATIENCE_S = 60
OLD = b"the old content"
#: The calls that change something on disk.
CHANGING = "mkdirat,linkat,renameat,renameat2,unlinkat,fsync,fchmod"


def traced(scenario: str, root: Path, *options: str | Path) -> "subprocess.CompletedProcess[str]":
    """Play a scenario under strace."""
    module = "tests.support.shared_child"
    command = ["strace", "-f", "-qq", *options, sys.executable, "-B", "-m", module, scenario, root]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)


def metadata(content: bytes) -> bytes:
    """Return the metadata of a content."""
    return parse_metadata(joined(lines(content))).expiring(4_000_000_000).text()


def prepared(root: Path) -> Path:
    """Return a store with an old pair and another file; returns the directory of the source."""
    root.mkdir(exist_ok=True)
    store_pair(root, OLD, metadata(OLD))
    (root / METADATA).write_bytes(metadata(NEW))
    place = root / "files" / TARGET / "files" / SOURCE
    (place / "kept").write_text("kept")
    return place


def pair(place: Path) -> bytes | None:
    """Return the content, which must match its metadata; None if there is no pair."""
    if not (place / "f").exists() and not (place / "f.metadata").exists():
        return None
    content = (place / "f").read_bytes()
    assert parse_metadata((place / "f.metadata").read_bytes()).hash_value == sha512(content)
    return content


def points(scenario: str, root: Path) -> list[tuple[str, int]]:
    """Every moment before a call that changes something: the call and its number."""
    prepared(root)
    trace = root / "trace"
    options = ("-o", trace, "-e", f"trace={CHANGING}")
    assert traced(scenario, root, *options).returncode == 0
    calls = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    assert len(calls) > 8
    return [(call, calls[: at + 1].count(call)) for at, call in enumerate(calls)]


@pytest.mark.fault("A9")
@pytest.mark.parametrize("scenario", ["replace", "expire"])
def test_killed_at_any_step(tmp_path: Path, scenario: str) -> None:
    """Whenever it dies, the old pair or the new state exists; the next sweep cleans up."""
    outcomes = set()
    after = NEW if scenario == "replace" else None
    for number, (call, at) in enumerate(points(scenario, tmp_path / "probe")):
        root = tmp_path / str(number)
        place = prepared(root)
        inject = f"inject={call}:signal=KILL:when={at}"
        killed = traced(scenario, root, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        assert -killed.returncode == signal.SIGKILL, (call, at, killed.stderr)
        found = pair(place)
        outcomes.add(found)
        assert found in (OLD, after), (call, at)
        assert (place / "kept").read_text() == "kept"
        sweep(Store(root / "files"), 3_000_000_000)
        assert pair(place) == found
        assert not [path for path in root.rglob("*") if STAGE_PREFIX in path.name]
    assert outcomes == {OLD, after}


def test_upload_is_durable_in_order(tmp_path: Path) -> None:
    """Content, metadata and the directory are on disk before the exchange, that one after it."""
    prepared(tmp_path)
    trace = tmp_path / "trace"
    traced("replace", tmp_path, "-y", "-o", trace, "-e", "trace=renameat2,fsync")
    calls = re.findall(r"(renameat2|fsync)\((.*)\) += 0", trace.read_text())
    assert [name for name, _ in calls] == ["fsync", "fsync", "fsync", "renameat2", "fsync"]
    content, metadata, stage, _, files = (arguments for _, arguments in calls)
    assert re.search(rf"{re.escape(STAGE_PREFIX)}\w+/f>", content)
    assert re.search(rf"{re.escape(STAGE_PREFIX)}\w+/f\.metadata>", metadata)
    assert re.search(rf"{re.escape(STAGE_PREFIX)}\w+>", stage)
    assert files.endswith("/files>")


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("bytes", marks=pytest.mark.fault("R1")),
        pytest.param("inodes", marks=pytest.mark.fault("R4")),
    ],
)
def test_full_disk(tmp_path: Path, what: str) -> None:
    """An upload without space is answered by 507; only the old pair stays."""
    alone = ["unshare", "-rm"]
    if subprocess.run([*alone, "true"], check=False, timeout=PATIENCE_S).returncode:
        pytest.skip("this system allows no mount namespaces")
    module = "tests.support.shared_full_disk"
    command = [*alone, sys.executable, "-m", module, str(tmp_path), what]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if " " in line and line[0] != "2"] == [
        "first 200",
        "full 507",
        "full 507",
        "full 507",
        "kept True",
        "left []",
        "again 200",
    ]


def test_the_link_of_a_foreign_owner(tmp_path: Path) -> None:
    """Files that cannot be linked are no obstacle: the pair is then replaced step by step."""
    place = prepared(tmp_path)
    trace = tmp_path / "trace"
    inject = "inject=linkat:error=EPERM"
    done = traced("replace", tmp_path, "-o", trace, "-e", "trace=linkat", "-e", inject)
    assert done.returncode == 0
    assert pair(place) == NEW
    assert sorted(os.listdir(place)) == ["f", "f.metadata", "kept"]  # noqa: PTH208
