"""Moving refused files to `failed` and back."""

import json
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import Reason, Refused
from relayd.spool.failed import quarantine as module
from relayd.spool.failed.moving import sync_files
from relayd.spool.failed.quarantine import RefusedFile, quarantine, requeue
from relayd.spool.failed.reasons import (
    NAME_MAX,
    ReasonRecord,
    fit_name,
    read_reason,
    reason_path,
    write_reason,
)
from relayd.spool.identity import Identity, identity

REFUSED = Refused(Reason.ARCHIVE, "cut short after 12 bytes")


@pytest.fixture
def failed(spool: Path) -> Path:
    """Return the directory for refused files, which does not exist yet."""
    return spool.with_name("failed")


def put(path: Path, content: str = "x") -> Identity:
    """Write a file and return its identity."""
    path.write_text(content)
    return identity(path.lstat())


def refuse(spool: Path, failed: Path, name: str, known: Identity | None = None) -> Path:
    """Refuse a file and return its new path."""
    where = quarantine(spool, failed, RefusedFile(name, known, REFUSED, "node", "token"))
    assert isinstance(where, Path)
    return where


def names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


def test_refused_file_is_moved_with_its_reason(spool: Path, failed: Path) -> None:
    """The file itself is moved, and one line of JSON next to it gives the reason."""
    known = put(spool / "a.log", "content")
    where = refuse(spool, failed, "a.log", known)
    assert where == failed / "a.log"
    assert identity(where.lstat()) == known
    assert names(spool) == []
    text = (failed / "a.log.reason").read_text(encoding="ascii")
    assert text.endswith("}\n")
    record = json.loads(text)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "name": "a.log",
        "queue_id": "E4355B8DF831D65D391E9893AE31BFE9",
        "reason": "archive",
        "detail": "cut short after 12 bytes",
        "node": "node",
        "trust": "token",
    }


@pytest.mark.fault("S4")
def test_older_refused_file_of_the_same_name_is_kept(spool: Path, failed: Path) -> None:
    """Files refused under one name are all kept, each with its reason."""
    for content in ("first", "second", "third"):
        put(spool / "a.log", content)
        refuse(spool, failed, "a.log")
    kept = ["a.log", "a.log.~1~", "a.log.~2~"]
    assert [(failed / name).read_text() for name in kept] == ["first", "second", "third"]
    assert names(failed) == sorted(kept + [f"{name}.reason" for name in kept])


@pytest.mark.fault("S4")
def test_file_that_is_refused_again_is_kept_once(
    spool: Path, failed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same name and bytes, one file is left, with the newer reason; also if a piece ends."""
    monkeypatch.setattr(module, "_PIECE", 2)
    for content in ("first", "other", "other", "first", "others"):
        put(spool / "a.log", content)
        newer = Refused(Reason.MIME, content)
        quarantine(spool, failed, RefusedFile("a.log", None, newer, "node", "token"))
    kept = ["a.log", "a.log.~1~", "a.log.~2~"]
    assert [(failed / name).read_text() for name in kept] == ["first", "other", "others"]
    assert names(failed) == sorted(kept + [f"{name}.reason" for name in kept])
    put(spool / "a.log", "first")
    assert refuse(spool, failed, "a.log") == failed / "a.log"
    record = read_reason(failed / "a.log.reason")
    assert record is not None
    assert record.detail == REFUSED.detail
    assert names(failed) == sorted(kept + [f"{name}.reason" for name in kept])


@pytest.mark.fault("S4")
def test_only_regular_files_are_opened_to_be_compared(spool: Path, failed: Path) -> None:
    """Links and FIFOs of the same name and size stay, and so do two links of one file."""
    put(spool / "target", "content")
    for make in (os.mkfifo, os.mkfifo, lambda path: path.symlink_to(spool / "target")):
        make(spool / "a.log")
        refuse(spool, failed, "a.log")
    for _ in range(2):
        os.link(spool / "target", spool / "a.log")
        refuse(spool, failed, "a.log")
    assert len(names(failed)) == 2 * 5
    assert names(spool) == ["target"]


@pytest.mark.fault("S1", "S4")
@pytest.mark.parametrize("fails", range(4))
def test_cut_off_between_any_two_moves_a_file_refused_again_is_not_lost(
    spool: Path, failed: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """Wherever it ends, the bytes are there, each file has its reason, and the next try is good."""
    put(spool / "a.log", "content")
    refuse(spool, failed, "a.log")
    put(spool / "a.log", "content")
    moves, rename = iter(range(99)), Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        if next(moves) == fails:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", cut_off)
    with suppress(KeyboardInterrupt):
        refuse(spool, failed, "a.log")
    monkeypatch.undo()
    files = [path for path in failed.iterdir() if not path.name.endswith(".reason")]
    assert {path.read_text() for path in [*files, *spool.iterdir()]} == {"content"}
    assert all(reason_path(path).exists() for path in files)
    put(spool / "a.log", "content")
    assert refuse(spool, failed, "a.log") == failed / "a.log"


@pytest.mark.fault("S3")
def test_newer_file_of_the_same_name_is_not_refused(spool: Path, failed: Path) -> None:
    """A file that replaced a refused one stays in the spool to be processed."""
    known = put(spool / "a.log")
    (spool / "a.log").unlink()
    put(spool / "a.log", "newer")
    result = quarantine(spool, failed, RefusedFile("a.log", known, REFUSED, "", ""))
    assert result == "changed"
    assert names(spool) == ["a.log"]


@pytest.mark.fault("S3")
def test_newer_file_taken_in_the_last_moment_is_put_back(
    spool: Path, failed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that replaced the refused one just before the move is moved back."""
    known = put(spool / "a.log")

    def replace_then_look(path: Path) -> Path:
        put(spool / "new", "newer")
        (spool / "new").rename(spool / "a.log")
        return reason_path(path)

    monkeypatch.setattr(module, "reason_path", replace_then_look)
    result = quarantine(spool, failed, RefusedFile("a.log", known, REFUSED, "", ""))
    monkeypatch.undo()
    assert result == "changed"
    assert (spool / "a.log").read_text() == "newer"
    assert names(failed) == []


@pytest.mark.fault("S16")
def test_vanished_file_is_gone(spool: Path, failed: Path) -> None:
    """A refused file that has vanished is no error and leaves no reason behind."""
    assert quarantine(spool, failed, RefusedFile("a.log", None, REFUSED, "", "")) == "gone"
    assert not failed.exists() or names(failed) == []


@pytest.mark.fault("S5")
def test_missing_failed_directory_is_made(spool: Path, failed: Path) -> None:
    """`failed` is made again if it was removed; if that is impossible, the file stays."""
    put(spool / "a.log")
    refuse(spool, failed, "a.log")
    assert stat.S_IMODE(failed.stat().st_mode) & 0o007 == 0
    put(spool / "b.log")
    with pytest.raises(FileNotFoundError):
        refuse(spool, failed.parent / "missing" / "failed", "b.log")
    assert names(spool) == ["b.log"]


def make_socket(path: Path) -> None:
    """Make a listening socket, bound to a short relative path because sun_path is short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.fault("S11")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), stat.S_ISLNK),
        (lambda path: path.symlink_to("/nowhere"), stat.S_ISLNK),
        (os.mkfifo, stat.S_ISFIFO),
        (make_socket, stat.S_ISSOCK),
        (lambda path: (path / "sub").mkdir(parents=True), stat.S_ISDIR),
    ],
    ids=["link", "broken link", "fifo", "socket", "directory"],
)
def test_what_is_no_file_is_moved_as_it_is(
    spool: Path, failed: Path, make: Callable[[Path], None], kind: Callable[[int], bool]
) -> None:
    """Links, FIFOs, sockets and directories are moved without being opened or followed."""
    make(spool / "x.log")
    known = identity((spool / "x.log").lstat())
    where = refuse(spool, failed, "x.log", known)
    assert kind(where.lstat().st_mode)
    assert identity(where.lstat()) == known
    assert names(spool) == []


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe@\x80.log",
        b"new\nline.log",
        b"\x1b[31mred.log",
        b"%2e%2e%2f?#.log",
        b"x" * 251 + b".log",
        b"\xc3\xa9" * 125 + b"a.log",
    ],
)
def test_any_name_is_kept_and_comes_back(spool: Path, failed: Path, raw: bytes) -> None:
    """A name of any bytes, refused twice, is recorded in its reason and can be restored."""
    name = os.fsdecode(raw)
    for content in ("first", "second"):
        put(spool / name, content)
        where = refuse(spool, failed, name)
        record = read_reason(reason_path(where))
        assert record is not None
        assert record.name == name
    assert len(names(failed)) == 4
    assert requeue(failed, spool, lambda _: True) == 1
    assert [os.fsencode(found) for found in names(spool)] == [raw]
    (spool / name).unlink()
    assert requeue(failed, spool, lambda _: True) == 1
    assert names(failed) == []


@given(
    st.binary(min_size=1, max_size=NAME_MAX).filter(lambda raw: not set(raw) & {0, 47}),
    st.sampled_from([".reason", ".~1~", ".~12345~"]),
)
def test_names_are_shortened_to_what_fits(raw: bytes, suffix: str) -> None:
    """A name with a suffix is a valid file name, and different long names stay different."""
    fitted = os.fsencode(fit_name(os.fsdecode(raw), suffix))
    assert len(fitted) <= NAME_MAX
    assert fitted.endswith(suffix.encode())
    if len(raw) + len(suffix) <= NAME_MAX:
        assert fitted == raw + suffix.encode()
    other = bytes([raw[0] ^ 1 or 2]) + raw[1:]
    if other[0] != 47:
        assert os.fsencode(fit_name(os.fsdecode(other), suffix)) != fitted


def test_reason_left_by_a_crash_is_replaced(spool: Path, failed: Path) -> None:
    """A reason without a file, left by a crash between the two, does not block the next one."""
    failed.mkdir()
    (failed / "a.log.reason").write_text("{")
    put(spool / "a.log")
    assert refuse(spool, failed, "a.log") == failed / "a.log"
    record = read_reason(failed / "a.log.reason")
    assert record is not None
    assert record.reason is Reason.ARCHIVE


def test_only_wanted_files_go_back(spool: Path, failed: Path) -> None:
    """Files are moved back depending on their reason; others, and those without one, stay."""
    for name in ("a.log", "b.log", "c.log", "d.log"):
        put(spool / name, name)
        refuse(spool, failed, name)
    (failed / "c.log.reason").unlink()
    (failed / "d.log.reason").write_text('{"name": "d.log"}')
    assert requeue(failed, spool, lambda record: record.name != "b.log") == 1
    assert names(spool) == ["a.log"]
    assert (spool / "a.log").read_text() == "a.log"
    assert names(failed) == [
        "b.log",
        "b.log.reason",
        "c.log",
        "d.log",
        "d.log.reason",
    ]


def test_file_does_not_go_back_over_a_newer_one(spool: Path, failed: Path) -> None:
    """A name that is taken in the spool is not overwritten; the refused file keeps its reason."""
    put(spool / "a.log", "refused")
    refuse(spool, failed, "a.log")
    put(spool / "a.log", "newer")
    assert requeue(failed, spool, lambda _: True) == 0
    assert (spool / "a.log").read_text() == "newer"
    assert names(failed) == ["a.log", "a.log.reason"]


def test_forged_reason_does_not_move_files_elsewhere(spool: Path, failed: Path) -> None:
    """A reason whose name leads out of the spool is ignored."""
    put(spool / "a.log")
    where = refuse(spool, failed, "a.log")
    record = read_reason(reason_path(where))
    assert record is not None
    for name in ("../escaped.log", "", ".", ".."):
        forged = ReasonRecord(name, "", record.reason, "", "", record.time, "")
        write_reason(reason_path(where), forged)
        assert requeue(failed, spool, lambda _: True) == 0
    assert names(spool.parent) == ["failed", "incoming"]


def test_missing_failed_directory_holds_nothing_to_bring_back(spool: Path, failed: Path) -> None:
    """Without `failed` nothing is moved back, and nothing is raised."""
    assert requeue(failed, spool, lambda _: True) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"name": 1}'])
def test_broken_reason_counts_as_none(tmp_path: Path, content: str) -> None:
    """A reason that is truncated or was not written by relayd is ignored."""
    (tmp_path / "a.reason").write_text(content)
    assert read_reason(tmp_path / "a.reason") is None


def _never_begins(_run: Callable[[], None], _arguments: tuple[()]) -> int:
    return 1


def _is_refused(_run: Callable[[], None], _arguments: tuple[()]) -> int:
    raise RuntimeError("can't start new thread")


@pytest.mark.fault("L6")
@pytest.mark.parametrize("start", [_never_begins, _is_refused])
def test_a_thread_that_gets_no_memory_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., int]
) -> None:
    """It may be made and still end before its first line; the files are synced all the same."""
    monkeypatch.setattr("_thread.start_new_thread", start)
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths[1:]:
        path.touch()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert sync_files(paths).keys() == {paths[0]}
    assert len(synced) == 19
