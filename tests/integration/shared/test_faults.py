"""Shared files when the process is killed at any step, on full disks, and under strace(1)."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from relayd.shared.expiry import sweep
from relayd.shared.metadata import parse_metadata
from relayd.shared.store import FEW, STAGE_PREFIX, Store
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


def metadata(content: bytes, expires: int = 4_000_000_000) -> bytes:
    """Return the metadata of a content."""
    return parse_metadata(joined(lines(content))).expiring(expires).text()


def prepared(root: Path, others: int = 0) -> Path:
    """Return a store with an old pair and other files; returns the directory of the source."""
    root.mkdir(exist_ok=True)
    store_pair(root, OLD, metadata(OLD))
    (root / METADATA).write_bytes(metadata(NEW))
    place = root / "files" / TARGET / "files" / SOURCE
    (place / "kept").write_text("kept")
    lasting = metadata(OLD, 9_000_000_000)
    for number in range(others):
        (place / f"other{number}.metadata").write_bytes(lasting)
        (place / f"other{number}").touch()
    return place


def pair(place: Path) -> bytes | None:
    """Return the content, which must match its metadata; None if there is no pair."""
    if not (place / "f").exists() and not (place / "f.metadata").exists():
        return None
    content = (place / "f").read_bytes()
    assert parse_metadata((place / "f.metadata").read_bytes()).hash_value == sha512(content)
    return content


def points(scenario: str, root: Path, others: int = 0) -> list[tuple[str, int]]:
    """Every moment before a call that changes something: the call and its number."""
    prepared(root, others)
    trace = root / "trace"
    options = ("-o", trace, "-e", f"trace={CHANGING}")
    assert traced(scenario, root, *options).returncode == 0
    calls = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    assert len(calls) > 6
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


@pytest.mark.fault("A9", "F21")
@pytest.mark.parametrize("scenario", ["replace", "expire"])
def test_killed_at_any_step_beside_many(tmp_path: Path, scenario: str) -> None:
    """Where the directory is not exchanged, a pair is never mixed; the next start completes it.

    Metadata may be missing for a moment, so they never belong to another content.
    """
    outcomes = set()
    after = NEW if scenario == "replace" else None
    for number, (call, at) in enumerate(points(scenario, tmp_path / "probe", FEW)):
        if call not in ("renameat", "unlinkat"):
            continue
        root = tmp_path / str(number)
        place = prepared(root, FEW)
        inject = f"inject={call}:signal=KILL:when={at}"
        killed = traced(scenario, root, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        assert -killed.returncode == signal.SIGKILL, (call, at, killed.stderr)
        if (place / "f.metadata").exists():
            pair(place)
        store = Store(root / "files")
        with suppress(FileNotFoundError):
            store.metadata(TARGET, SOURCE, "f")  # anything that a started relayd does
        found = pair(place)
        outcomes.add(found)
        assert found in (OLD, after), (call, at)
        assert (place / "kept").read_text() == "kept"
        assert len(list(place.iterdir())) == 1 + 2 * FEW + (2 if found else 0)
        assert not [path for path in root.rglob("*") if STAGE_PREFIX in path.name]
    assert outcomes == {OLD, after}


def calls_of(scenario: str, root: Path, others: int) -> Counter[str]:
    """Count the calls on files of a store that make or read entries of directories."""
    prepared(root, others)
    trace = root / "trace"
    calls = f"{CHANGING},getdents64,openat,openat2,newfstatat,read"
    assert traced(scenario, root, "-y", "-o", trace, "-e", f"trace={calls}").returncode == 0
    text = trace.read_text().rpartition("swept")[2]
    found = (re.match(r"\d+ +(\w+)\(", line) for line in text.splitlines() if f"{root}/" in line)
    return Counter(call[1] for call in found if call is not None)


@pytest.mark.fault("F21")
@pytest.mark.parametrize("scenario", ["replace", "sweep"])
def test_the_cost_does_not_depend_on_the_number_of_files(tmp_path: Path, scenario: str) -> None:
    """Uploads, and sweeps while nothing expires, make the same system calls beside more files."""
    some = calls_of(scenario, tmp_path / "some", FEW)
    many = calls_of(scenario, tmp_path / "many", 4 * FEW)
    assert some == many
    assert some.total() > 1
    assert some["linkat"] == 0


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
