"""The spool on filesystems that are full, foreign or mounted over, and with failing calls.

Each test runs a small process of its own, in a mount namespace by unshare(1) or under strace(1),
which makes chosen system calls fail, or kills the process just before them.
"""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.spool.failed.reasons import read_reason

PATIENCE_S = 60
NO_SPACE = "No space left on device"


def run(*command: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command with a deadline; its output is shown when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def child(scenario: str, root: Path, *arguments: str) -> list[str | Path]:
    """Return the command of a process that plays a scenario; it writes no bytecode files."""
    module = "tests.support.spool_child"
    return [sys.executable, "-B", "-m", module, scenario, root, *arguments]


def in_namespace(scenario: str, root: Path, *arguments: str) -> list[str]:
    """Play a scenario where mounts are its own; what it printed."""
    if run("unshare", "-rm", "true", check=False).returncode:
        pytest.skip("this system allows no mount namespaces")
    return run("unshare", "-rm", *child(scenario, root, *arguments)).stdout.splitlines()


def traced(scenario: str, root: Path, *options: str | Path) -> "subprocess.CompletedProcess[str]":
    """Play a scenario under strace."""
    return run("strace", "-f", "-qq", *options, *child(scenario, root), check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with an empty `incoming`."""
    (tmp_path / "incoming").mkdir()
    return tmp_path


@pytest.mark.fault("N5")
def test_directory_mounted_over(root: Path) -> None:
    """A filesystem mounted over the watched directory, and its end, are noticed."""
    assert in_namespace("mounted-over", root) == ["before.log", "over.log", "after.log"]


@pytest.mark.fault("N6")
@pytest.mark.parametrize(
    ("call", "error"), [("inotify_init1", "EMFILE"), ("inotify_add_watch", "ENOSPC")]
)
def test_without_inotify_the_directory_is_polled(root: Path, call: str, error: str) -> None:
    """When the system has no inotify left, files are found by listing until it has."""
    inject = f"inject={call}:error={error}:when=1"
    done = traced("watched", root, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    assert done.stdout.splitlines() == ["poll", "a.log", "events"]
    assert done.stderr.count("inotify is unavailable") == 1


@pytest.mark.fault("N7")
@pytest.mark.parametrize("error", ["EIO", "EBADF", "EINVAL"])
def test_failing_read_restarts_inotify(root: Path, error: str) -> None:
    """When reading events fails, the lost ones are made up for and later ones come."""
    inject = f"inject=read:error={error}:when=2"
    options = ("-o", "/dev/null", "-P", "anon_inode:inotify", "-e", "trace=read", "-e", inject)
    done = traced("watched", root, *options)
    assert done.stdout.splitlines() == ["inotify", "a.log", "events"]
    assert done.stderr.count("inotify failed") == 1


@pytest.mark.fault("N7")
def test_interrupted_read_is_no_failure(root: Path) -> None:
    """A read interrupted by a signal is simply repeated."""
    inject = "inject=read:error=EINTR:when=2"
    options = ("-o", "/dev/null", "-P", "anon_inode:inotify", "-e", "trace=read", "-e", inject)
    done = traced("watched", root, *options)
    assert done.stdout.splitlines() == ["inotify", "a.log", "events"]
    assert "inotify failed" not in done.stderr


@pytest.mark.history(8)
def test_failing_listing_is_taken_again(root: Path) -> None:
    """A directory that cannot be read for a while is logged once and listed afterwards."""
    (root / "incoming" / "0.log").touch()
    inject = "inject=getdents64:error=EIO:when=1..3"
    options = ("-o", "/dev/null", "-P", root / "incoming", "-e", "trace=getdents64", "-e", inject)
    done = traced("listed", root, *options)
    assert done.stdout == "0.log\n"
    assert done.stderr.count("cannot list directory") == 1


@pytest.mark.fault("S5")
def test_failed_on_another_filesystem(root: Path) -> None:
    """Files are copied there whole, with their times, or stay; and they come back."""
    lines = in_namespace("other-filesystem", root)
    assert lines[0] == "file.log 0o10 1000"
    assert lines[1].startswith("fifo.log 0o1 ")
    assert lines[2].startswith("link.log 0o12 ")
    assert lines[3:] == [
        f"large.log {NO_SPACE} []",
        "directory.log Invalid cross-device link []",
        "left: directory.log large.log",
        "back: 1 content 0",
    ]


@pytest.mark.fault("R2")
@pytest.mark.history(13)
@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_refused_files_are_moved_on_a_full_disk(root: Path, what: str) -> None:
    """Without space for a reason a file is moved all the same; no descriptor is left open."""
    lines = in_namespace("full-disk", root, what)
    assert [line for line in lines if line != NO_SPACE] == [
        *(f"failed/{number}.log" for number in range(5)),
        "leaked: 0",
        "left:",
    ]


@pytest.mark.fault("S19")
def test_move_to_failed_is_durable_in_order(root: Path, tmp_path: Path) -> None:
    """The reason is on disk before it gets its name, and the names are before we go on."""
    (root / "incoming" / "a.log").write_text("x")
    (root / "failed").mkdir()
    trace = tmp_path / "trace"
    traced("refuse-all", root, "-y", "-o", trace, "-e", "trace=rename,fsync")
    calls = re.findall(r"(rename|fsync)\((.*)\) += 0", trace.read_text())
    temporary, reason, file = calls[0][1], calls[1][1], calls[2][1]
    assert [name for name, _ in calls] == ["fsync", "rename", "rename", "fsync"]
    assert ".relayd.tmp." in temporary
    assert reason.endswith('failed/a.log.reason"')
    assert file.endswith('failed/a.log"')
    assert calls[3][1].endswith("/failed>")


@pytest.mark.fault("F28", "S19")
def test_a_batch_is_moved_to_failed_with_one_sync_of_the_directory(
    root: Path, tmp_path: Path
) -> None:
    """All reasons are on disk before the first move, all moves before we go on, in few steps."""
    for number in range(20):
        (root / "incoming" / f"{number}.log").write_text("x")
    (root / "failed").mkdir()
    trace = tmp_path / "trace"
    traced("refuse-together", root, "-y", "-o", trace, "-e", "trace=rename,fsync")
    calls = re.findall(r"(rename|fsync)\((.*?)(?: <unfinished|\) += 0)", trace.read_text())
    assert [name for name, _ in calls] == ["fsync"] * 20 + ["rename"] * 40 + ["fsync"]
    assert len({where for _, where in calls[:20] if ".relayd.tmp." in where}) == 20
    assert calls[-1][1].endswith("/failed>")


@pytest.mark.parametrize(("call", "at"), [("fsync", 1), ("rename", 1), ("rename", 20)])
def test_killed_while_moving_a_batch_to_failed(root: Path, call: str, at: int) -> None:
    """Killed at any step, each file is in exactly one place, in `failed` with its reason."""
    names = {f"{number}.log" for number in range(20)}
    for name in names:
        (root / "incoming" / name).write_text("content")
    inject = f"inject={call}:signal=KILL:when={at}"
    options = ("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    killed = traced("refuse-together", root, *options)
    assert -killed.returncode == signal.SIGKILL
    assert sorted(path.name for path in root.glob("*/*.log")) == sorted(names)
    moved = {path.name for path in (root / "failed").glob("*.log")}
    assert all(read_reason(root / "failed" / f"{name}.reason") for name in moved)
    run(*child("refuse-together", root))
    assert {path.name for path in (root / "failed").glob("*.log")} == names


@pytest.mark.parametrize(
    ("call", "at"), [("mkdir", 1), ("fsync", 1), ("rename", 1), ("rename", 2), ("fsync", 2)]
)
def test_killed_while_moving_to_failed(root: Path, call: str, at: int) -> None:
    """Killed at any step, a file is in exactly one place, and a second run ends the move."""
    (root / "incoming" / "a.log").write_text("content")
    inject = f"inject={call}:signal=KILL:when={at}"
    options = ("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    killed = traced("refuse-all", root, *options)
    assert -killed.returncode == signal.SIGKILL
    places = list(root.glob("*/a.log"))
    assert len(places) == 1
    run(*child("refuse-all", root))
    assert (root / "failed" / "a.log").read_text() == "content"
    assert read_reason(root / "failed" / "a.log.reason") is not None
    assert list((root / "incoming").iterdir()) == []
