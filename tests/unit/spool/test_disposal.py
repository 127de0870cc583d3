"""Removing committed files."""

import os
from pathlib import Path

import pytest
import trio

from relayd.errors import Reason, Refused, Retry
from relayd.spool.disposal import Disposal, Identity, RefusedFile, identity, remove

REFUSED = Refused(Reason.SIGNATURE, "signature is wrong")


def put(path: Path, content: str = "x") -> Identity:
    """Write a file and return its identity."""
    path.write_text(content)
    return identity(path.lstat())


def test_file_that_was_read_is_removed(spool: Path) -> None:
    """The file whose identity was read is unlinked."""
    known = put(spool / "a.log")
    assert remove(spool, "a.log", known) == "removed"
    assert not list(spool.iterdir())


@pytest.mark.fault("S3")
@pytest.mark.parametrize("how", ["renamed over", "rewritten", "touched"])
def test_newer_file_of_the_same_name_stays(spool: Path, how: str) -> None:
    """A file that took the name, or grew, after it was read is not removed."""
    known = put(spool / "a.log")
    if how == "renamed over":
        put(spool / ".new", "x")
        os.utime(spool / ".new", ns=(known.mtime_ns, known.mtime_ns))
        (spool / ".new").rename(spool / "a.log")
    elif how == "rewritten":
        put(spool / "a.log", "longer")
        os.utime(spool / "a.log", ns=(known.mtime_ns, known.mtime_ns))
    else:
        os.utime(spool / "a.log", ns=(known.mtime_ns, known.mtime_ns + 1))
    assert remove(spool, "a.log", known) == "changed"
    assert (spool / "a.log").exists()


@pytest.mark.fault("S16")
def test_file_that_someone_else_took_is_gone(spool: Path) -> None:
    """A file that vanished is no error."""
    known = put(spool / "a.log")
    (spool / "a.log").unlink()
    assert remove(spool, "a.log", known) == "gone"


def test_link_of_the_same_name_is_not_followed(spool: Path, tmp_path: Path) -> None:
    """A symbolic link to the very file that was read is another file."""
    known = put(tmp_path / "target")
    (spool / "a.log").symlink_to(tmp_path / "target")
    assert remove(spool, "a.log", known) == "changed"


async def test_batch_is_answered_file_by_file(spool: Path) -> None:
    """Each file of a batch has its own result, in the order of the batch."""
    files = [(f"{number}.log", put(spool / f"{number}.log")) for number in range(3)]
    (spool / "0.log").unlink()
    put(spool / "1.log", "newer")
    assert await Disposal(spool, spool.with_name("failed")).remove(files) == [
        "gone",
        "changed",
        "removed",
    ]


@pytest.mark.fault("S6")
async def test_file_that_cannot_be_removed_is_remembered(
    spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A committed file that stays is put off, known as committed and told once; others go on."""
    disposal = Disposal(spool, spool.with_name("failed"))
    (spool / "stuck.log").mkdir()  # refused by unlink(2), for root too
    stuck, free = identity((spool / "stuck.log").lstat()), put(spool / "free.log")
    for _ in range(3):
        results = await disposal.remove([("stuck.log", stuck), ("free.log", free)])
        assert isinstance(results[0], Retry)
        assert "stuck.log" in results[0].detail
    assert disposal.committed.holds("stuck.log", stuck)
    assert not disposal.committed.holds("free.log", free)
    assert capfd.readouterr().err.count("cannot remove committed file") == 1
    assert not (spool / "free.log").exists()
    (spool / "stuck.log").rmdir()
    assert await disposal.remove([("stuck.log", stuck)]) == ["gone"]
    assert not disposal.committed.holds("stuck.log", stuck)


async def test_replacement_of_a_stuck_file_is_not_taken_for_committed(spool: Path) -> None:
    """A newer file under a remembered name is a file to process."""
    disposal = Disposal(spool, spool.with_name("failed"))
    old = put(spool / "a.log")
    disposal.committed.remember("a.log", old, "")
    assert not disposal.committed.holds("a.log", put(spool / "a.log", "newer"))
    assert await disposal.remove([("a.log", old)]) == ["changed"]
    assert len(disposal.committed) == 0


async def test_batch_of_refused_files_is_answered_one_by_one(spool: Path) -> None:
    """One refused file that cannot be moved is put off and does not hold up the others."""
    failed = spool / "0.log" / "failed"  # a directory cannot be moved into itself, by root either
    failed.mkdir(parents=True)
    known = [identity((spool / "0.log").lstat()), put(spool / "1.log"), put(spool / "2.log")]
    files = [RefusedFile(f"{n}.log", known[n], REFUSED, node_id="n", trust="t") for n in range(3)]
    (spool / "2.log").unlink()
    results = await Disposal(spool, failed).quarantine(files)
    assert isinstance(results[0], Retry)
    assert results[1:] == [failed / "1.log", "gone"]
    assert sorted(os.listdir(failed)) == ["1.log", "1.log.reason"]  # noqa: PTH208


async def test_cancelled_batch_is_finished(spool: Path) -> None:
    """A batch that has begun is done to its end when the pipeline is cancelled."""
    disposal = Disposal(spool, spool.with_name("failed"))
    files = [(f"{number}.log", put(spool / f"{number}.log")) for number in range(200)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disposal.remove, files)
        while len(list(spool.iterdir())) == 200:
            await trio.sleep(0)
        nursery.cancel_scope.cancel()
    assert not list(spool.iterdir())


async def test_requeue_runs_in_the_same_thread_slot(spool: Path) -> None:
    """Files go back from `failed` by the reason's record."""
    disposal = Disposal(spool, spool.with_name("failed"))
    known = put(spool / "a.log")
    await disposal.quarantine([RefusedFile("a.log", known, REFUSED, node_id="n", trust="t")])
    assert await disposal.requeue(lambda record: record.trust != "t") == 0
    assert await disposal.requeue(lambda record: record.node == "n") == 1
    assert identity((spool / "a.log").lstat()) == known
