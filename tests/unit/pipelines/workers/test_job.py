"""Examination of single files."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
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
Maker = Callable[[Path], None]

JOB = Job(NAME, "", NODE.node_id, (NODE.certificate,))
SIGNED = sign_runlog(make_runlog(NODE.node_id, START, reports=4), NODE)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(str(tmp_path), 100_000, frozenset())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the file of `JOB`."""
    return tmp_path / NAME


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Leave this process without free file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refusal(examined: Examined) -> Refused:
    """Return why a file is refused."""
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
    """`skip_event_types` of the setup is applied."""
    path.write_bytes(SIGNED)
    examined = examine_one(Setup(str(tmp_path), 100_000, frozenset({"control"})), JOB)
    assert isinstance(examined.result, RunLog)
    assert (examined.result.reports, examined.result.rows) == (4, 2)


@pytest.mark.fault("S16")
def test_missing_file_is_not_an_error(setup: Setup) -> None:
    """Someone else may have taken the file."""
    assert examine_one(setup, JOB) == Examined(None, Gone())


def make_link(path: Path) -> None:
    """Make a symbolic link to a good run log."""
    target = path.with_name("target")
    target.write_bytes(SIGNED)
    path.symlink_to(target)


def make_socket(path: Path) -> None:
    """Make a Unix socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.fault("S11")
@pytest.mark.parametrize("make", [make_link, make_socket, os.mkfifo, os.mkdir])
def test_irregular_file_is_refused(setup: Setup, path: Path, make: Maker) -> None:
    """It is neither followed nor waited for; the identity is its own, not that of its target."""
    make(path)
    examined = examine_one(setup, JOB)
    assert refusal(examined).reason is Reason.NOT_A_FILE
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S12")
def test_empty_file_is_refused(setup: Setup, path: Path) -> None:
    """The reason for an empty file is `empty`."""
    path.touch()
    assert refusal(examine_one(setup, JOB)).reason is Reason.EMPTY


@pytest.mark.fault("S13", "S20")
@pytest.mark.parametrize("size", [0, 1, 100, len(SIGNED) // 2, len(SIGNED) - 100])
def test_file_cut_short_may_be_unfinished(setup: Setup, path: Path, size: int) -> None:
    """Wherever a writer or a power failure stopped, the refusal says that it may be unfinished."""
    path.write_bytes(SIGNED[:size])
    assert refusal(examine_one(setup, JOB)).maybe_unfinished


def test_file_above_the_maximum_size_is_not_read(setup: Setup, path: Path) -> None:
    """A sparse file of a gigabyte is refused by its size."""
    with path.open("wb") as file:
        file.truncate(2**30)
    examined = examine_one(setup, JOB)
    assert refusal(examined).reason is Reason.TOO_LARGE
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S15")
def test_shortage_of_descriptors_does_not_count_as_an_attempt(setup: Setup, path: Path) -> None:
    """The file is retried; its identity is known, so that it can expire."""
    path.write_bytes(SIGNED)
    with no_more_descriptors():
        examined = examine_one(setup, JOB)
    limit = "RLIMIT_NOFILE, LimitNOFILE="
    detail = f"cannot be opened: Too many open files ({limit})"
    assert examined.result == Retry(detail, attempted=False)
    assert examined.identity == identity_at(path)


@pytest.mark.fault("S15")
def test_disk_error_counts_as_an_attempt(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is retried after EIO, but not forever."""
    path.write_bytes(SIGNED)

    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_read", fail)
    examined = examine_one(setup, JOB)
    assert examined.result == Retry("cannot be read: Input/output error")
    assert examined.identity == identity_at(path)


def test_shortage_of_memory_makes_the_file_wait(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that exceeds the free memory is retried, and ends neither a worker nor relayd."""
    path.write_bytes(SIGNED)

    def fail(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(module, "unpack", fail)
    assert isinstance(examine_one(setup, JOB).result, Retry)


def test_no_descriptor_is_left_open(setup: Setup, tmp_path: Path) -> None:
    """A hundred examinations of files of all kinds leave no descriptor open."""
    makers: list[Maker] = [make_link, make_socket, os.mkfifo, os.mkdir, Path.touch]
    for number, make in enumerate(makers):
        make(tmp_path / f"{number}.log")
    jobs = [Job(f"{number}.log", "", "node1", ()) for number in range(6)]
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(100):
        examine(setup, jobs)
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_call_ends_early_if_its_results_are_large(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is at least one result, and otherwise no more than the size limit allows."""
    path.write_bytes(SIGNED)
    (whole,) = examine(setup, [JOB])
    assert isinstance(whole.result, RunLog)
    size = len(whole.result.copy)
    for bound, results in ((1, 1), (size, 1), (size + 1, 2), (3 * size, 3), (10 * size, 5)):
        monkeypatch.setattr(module, "RESULT_BYTES", bound)
        assert len(examine(setup, [JOB] * 5)) == results


def test_call_ends_early_if_it_takes_long(
    setup: Setup, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time limit only the current file is finished."""
    path.write_bytes(SIGNED)
    monkeypatch.setattr(module, "CALL_S", -1.0)
    assert len(examine(setup, [JOB] * 5)) == 1
