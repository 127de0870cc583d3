"""One file after the other, as they lie in the spool."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.errors import Gone, Reason, Refused, Retry
from relayd.pipelines.workers import job as module
from relayd.pipelines.workers.job import Examined, Job, Setup, examine, examine_one
from relayd.runlog.model import RunLog
from relayd.spool.identity import identity_at
from tests.support.daemon import START
from tests.support.signing import make_key_and_cert, sign_runlog

NODE = make_key_and_cert("node1")
NAME = "a.log"
JOB = Job(NAME, "", NODE.node_id, (NODE.certificate,))
SIGNED = sign_runlog(make_runlog(NODE.node_id, START, reports=4), NODE)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(str(tmp_path), 100_000, frozenset())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of `JOB` lies."""
    return tmp_path / NAME


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """No further file can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refusal(examined: Examined) -> Refused:
    """Why it is refused."""
    assert isinstance(examined.result, Refused)
    return examined.result


def test_good_file_becomes_a_run_log(setup: Setup, path: Path) -> None:
    """It is read, verified and parsed, and the identity is that of what was read."""
    path.write_bytes(SIGNED)
    examined = examine_one(setup, JOB)
    assert isinstance(examined.result, RunLog)
    assert (examined.result.node_id, examined.result.rows) == ("node1", 4)
    assert examined.identity == identity_at(path)


def test_skipped_event_types_get_no_row(tmp_path: Path, path: Path) -> None:
    """`skip_event_types` of the setup counts."""
    path.write_bytes(SIGNED)
    examined = examine_one(Setup(str(tmp_path), 100_000, frozenset({"control"})), JOB)
    assert isinstance(examined.result, RunLog)
    assert (examined.result.reports, examined.result.rows) == (4, 2)


@pytest.mark.fault("S16")
def test_file_that_is_gone_is_no_error(setup: Setup) -> None:
    """Someone else took it."""
    assert examine_one(setup, JOB) == Examined(None, Gone())


def make_link(path: Path) -> None:
    """A symbolic link to a good run log."""
    target = path.with_name("target")
    target.write_bytes(SIGNED)
    path.symlink_to(target)


def make_socket(path: Path) -> None:
    """A Unix socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.fault("S11")
@pytest.mark.parametrize("make", [make_link, make_socket, os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(setup: Setup, path: Path, make: object) -> None:
    """It is neither followed nor waited for, and its own identity is known, not its target's."""
    make(path)  # type: ignore[operator]
    examined = examine_one(setup, JOB)
    assert refusal(examined).reason is Reason.NOT_A_FILE
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S12")
def test_empty_file_is_refused_as_empty(setup: Setup, path: Path) -> None:
    """An empty file is nothing else."""
    path.touch()
    assert refusal(examine_one(setup, JOB)).reason is Reason.EMPTY


@pytest.mark.fault("S13", "S20")
@pytest.mark.parametrize("size", [0, 1, 100, len(SIGNED) // 2, len(SIGNED) - 100])
def test_file_cut_short_may_be_unfinished(setup: Setup, path: Path, size: int) -> None:
    """Wherever a writer or a power failure stopped, the refusal says that more may come."""
    path.write_bytes(SIGNED[:size])
    assert refusal(examine_one(setup, JOB)).maybe_unfinished


def test_file_larger_than_the_cap_is_not_read(setup: Setup, path: Path) -> None:
    """A sparse file of a gigabyte costs nothing."""
    with path.open("wb") as file:
        file.truncate(2**30)
    examined = examine_one(setup, JOB)
    assert refusal(examined).reason is Reason.TOO_LARGE
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S15")
def test_want_of_descriptors_is_not_the_fault_of_the_file(setup: Setup, path: Path) -> None:
    """It is put off, its age is known, and it does not count as an attempt."""
    path.write_bytes(SIGNED)
    with no_more_descriptors():
        examined = examine_one(setup, JOB)
    assert examined.result == Retry("cannot be opened: Too many open files", attempted=False)
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S15")
def test_error_of_the_disk_is_an_attempt(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO may pass; if it does not, the file is given up in the end."""
    path.write_bytes(SIGNED)

    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_read", fail)
    examined = examine_one(setup, JOB)
    assert examined.result == Retry("cannot be read: Input/output error")
    assert examined.identity == identity_at(path)


def test_want_of_memory_puts_the_file_off(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file too large for the memory left ends neither a worker nor relayd."""
    path.write_bytes(SIGNED)

    def fail(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(module, "unpack", fail)
    assert isinstance(examine_one(setup, JOB).result, Retry)


def test_no_descriptor_is_left_open(setup: Setup, tmp_path: Path) -> None:
    """Whatever a file is, looking at it a hundred times opens nothing for good."""
    for number, make in enumerate((make_link, make_socket, os.mkfifo, os.mkdir, Path.touch)):
        make(tmp_path / f"{number}.log")  # type: ignore[operator]
    jobs = [Job(f"{number}.log", "", "node1", ()) for number in range(6)]
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(100):
        examine(setup, jobs)
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_call_ends_early_when_its_results_are_large(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are bounded by size: at least one, then no more than fit."""
    path.write_bytes(SIGNED)
    (whole,) = examine(setup, [JOB])
    assert isinstance(whole.result, RunLog)
    size = len(whole.result.copy)
    for bound, results in ((1, 1), (size, 1), (size + 1, 2), (3 * size, 3), (10 * size, 5)):
        monkeypatch.setattr(module, "RESULT_BYTES", bound)
        assert len(examine(setup, [JOB] * 5)) == results


def test_call_ends_early_when_its_files_are_slow(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is bounded likewise: the file under way is finished."""
    path.write_bytes(SIGNED)
    monkeypatch.setattr(module, "CALL_S", -1.0)
    assert len(examine(setup, [JOB] * 5)) == 1
