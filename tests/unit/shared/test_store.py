"""The store of shared files: pairs are complete for every reader, whatever fails."""

import errno
import itertools
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from relayd.shared import stage as stage_module
from relayd.shared import store as module
from relayd.shared.store import Store, sources

PLACE = Path("t/files/s")


def put(store: Store, file: str, content: bytes, metadata: bytes) -> None:
    """Store a pair."""
    stage = store.open_stage("t", file, "sha256")
    try:
        stage.write(content)
        store.put(stage, "s", metadata)
    finally:
        stage.close()


def below(root: Path) -> list[str]:
    """Return all files below a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def leftovers(root: Path) -> list[Path]:
    """Return files that should not be left after an operation."""
    return [path for path in root.rglob("*") if module.STAGE_PREFIX in path.name]


@pytest.fixture(params=["exchange", "singly", "many"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store that exchanges directories, one that cannot, one whose are all too large."""
    if request.param == "many":
        monkeypatch.setattr(module, "FEW", 0)
    if request.param == "singly":

        def refuse(*_arguments: object) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(module, "rename_exchange", refuse)
    return Store(tmp_path / "shared")


@pytest.mark.history(37, 43)
def test_a_pair_is_stored_beside_others(store: Store) -> None:
    """File and metadata get their names; other files of the source do not change."""
    put(store, "application.properties", b"one", b"m1")
    put(store, "application", b"two", b"m2")
    assert below(store.root) == [
        str(PLACE / name)
        for name in (
            "application",
            "application.metadata",
            "application.properties",
            "application.properties.metadata",
        )
    ]
    assert store.metadata("t", "s", "application.properties") == b"m1"
    assert store.metadata("t", "s", "application") == b"m2"
    assert leftovers(store.root) == []


def test_a_pair_is_replaced(store: Store) -> None:
    """Only the newer pair is left."""
    put(store, "f", b"old", b"m-old")
    put(store, "f", b"new", b"m-new")
    assert (store.root / PLACE / "f").read_bytes() == b"new"
    assert below(store.root) == [str(PLACE / "f"), str(PLACE / "f.metadata")]
    assert leftovers(store.root) == []


@pytest.mark.fault("D.3.3")
def test_access_is_kept(store: Store) -> None:
    """An upload does not change who can read the directory of a source."""
    put(store, "f", b"x", b"m")
    place = store.root / PLACE
    made = [store.root, *place.parents[:2], place]
    assert {path.stat().st_mode & 0o7777 for path in made} == {0o750}
    files = [place / "f", place / "f.metadata"]
    assert {path.stat().st_mode & 0o7777 for path in files} == {0o640}
    place.chmod(0o2770)
    put(store, "g", b"x", b"m")
    assert place.stat().st_mode & 0o7777 == 0o2770


@pytest.mark.fault("A9")
def test_a_source_that_holds_more_than_files(tmp_path: Path) -> None:
    """A foreign directory or link is no obstacle, and stays."""
    store = Store(tmp_path / "shared")
    put(store, "f", b"old", b"m")
    (store.root / PLACE / "directory").mkdir()
    (store.root / PLACE / "link").symlink_to("f")
    put(store, "f", b"new", b"m2")
    assert (store.root / PLACE / "link").read_bytes() == b"new"
    assert (store.root / PLACE / "directory").is_dir()
    assert store.metadata("t", "s", "f") == b"m2"
    assert leftovers(store.root) == []


@pytest.mark.fault("A9")
def test_readers_never_see_a_mixed_pair(tmp_path: Path) -> None:
    """A reader that opens the directory finds content and metadata of the same upload."""
    store = Store(tmp_path / "shared")
    put(store, "f", b"0", b"0")
    place = store.root / PLACE
    done: list[bool] = []
    seen: list[tuple[bytes, bytes]] = []

    def read() -> None:
        while not done:
            directory = os.open(place, os.O_RDONLY)
            try:
                pair = [read_at(directory, name) for name in ("f", "f.metadata")]
            except FileNotFoundError:
                continue  # exchanged, and emptied since
            finally:
                os.close(directory)
            seen.append((pair[0], pair[1]))

    def write() -> None:
        for number in range(1, 150):
            put(store, "f", str(number).encode(), str(number).encode())
        done.append(True)

    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(read), pool.submit(write)]:
            future.result()
    assert len(set(seen)) > 1
    assert all(content == metadata for content, metadata in seen)


def read_at(directory: int, name: str) -> bytes:
    """Return the content of a file of an open directory."""
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        return file.read()


@pytest.mark.fault("A10")
def test_many_uploads_of_one_id(store: Store) -> None:
    """One of them wins completely, and nothing of the others is left."""
    with ThreadPoolExecutor(50) as pool:
        numbers = [str(number).encode() for number in range(50)]
        list(pool.map(lambda number: put(store, "f", number * 1000, number), numbers))
    winner = store.metadata("t", "s", "f")
    assert (store.root / PLACE / "f").read_bytes() == winner * 1000
    assert below(store.root) == [str(PLACE / "f"), str(PLACE / "f.metadata")]
    assert leftovers(store.root) == []


@pytest.mark.fault("R1")
@pytest.mark.parametrize("when", ["write", "metadata", "link", "exchange"])
def test_no_space_leaves_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """If the disk is full at any step, the previous files stay, and nothing else is left."""
    store = Store(tmp_path / "shared")
    put(store, "f", b"old", b"m-old")
    put(store, "g", b"other", b"m")

    def full(*_arguments: object, **_options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    targets: dict[str, tuple[object, str]] = {
        "write": (stage_module, "write_all"),
        "metadata": (stage_module.Stage, "add"),
        "link": (os, "link"),
        "exchange": (module, "rename_exchange"),
    }
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with monkeypatch.context() as patch:
        patch.setattr(*targets[when], full)
        with pytest.raises(OSError, match="No space"):
            put(store, "f", b"new", b"m-new")
    assert (store.root / PLACE / "f").read_bytes() == b"old"
    assert store.metadata("t", "s", "f") == b"m-old"
    assert len(below(store.root)) == 4
    assert leftovers(store.root) == []
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.fault("R1", "F21")
@pytest.mark.parametrize(
    ("file", "failing"), [("f", 1), ("f", 2), ("f", 3), ("new", 1), ("new", 3), ("new", 4)]
)
def test_no_space_beside_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, failing: int
) -> None:
    """If a step fails, what was done is undone: the old pair stays, a new one is not there."""
    monkeypatch.setattr(module, "FEW", 0)
    store = Store(tmp_path / "shared")
    put(store, "f", b"old", b"m-old")
    rename, calls = os.rename, itertools.count(1)

    def full(*arguments: Any, **options: Any) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            put(store, file, b"new", b"m-new")
    assert below(store.root) == [str(PLACE / "f"), str(PLACE / "f.metadata")]
    assert (store.root / PLACE / "f").read_bytes() == b"old"
    assert store.metadata("t", "s", "f") == b"m-old"
    assert leftovers(store.root) == []


def test_half_a_pair_is_not_there(store: Store) -> None:
    """Content without metadata, or metadata without content, does not count as a file."""
    put(store, "f", b"x", b"m")
    put(store, "g", b"x", b"m")
    (store.root / PLACE / "f").unlink()
    (store.root / PLACE / "g.metadata").unlink()
    for file in ("f", "g", "nothing"):
        with pytest.raises(FileNotFoundError):
            store.metadata("t", "s", file)
    with pytest.raises(FileNotFoundError):
        store.metadata("nobody", "s", "f")


def test_dropped_pairs_leave_the_others(store: Store) -> None:
    """A dropped file is removed with its metadata, others stay; an empty directory is removed."""
    for file in ("a", "b", "c.d"):
        put(store, file, b"x", b"m")
    store.drop("t", "s", ["a", "c.d"])
    assert below(store.root) == [str(PLACE / "b"), str(PLACE / "b.metadata")]
    assert list(sources(store.root)) == [("t", "s")]
    store.drop("t", "s", ["b"])
    assert list(sources(store.root)) == []
    assert leftovers(store.root) == []


@pytest.mark.fault("D.3.3")
def test_names_of_stages_cannot_be_foreseen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are random, and an existing directory is never written into."""
    stages = [store.open_stage("t", "f", "sha256") for _ in range(3)]
    names = {stage.name for stage in stages}
    assert len(names) == 3
    assert all(len(name.removeprefix(module.STAGE_PREFIX)) >= 32 for name in names)
    monkeypatch.setattr(secrets, "token_hex", lambda _size: "taken")
    (store.root / "t" / f"{module.STAGE_PREFIX}taken").mkdir()
    with pytest.raises(FileExistsError):
        store.open_stage("t", "f", "sha256")
    for stage in stages:
        stage.close()


@pytest.mark.parametrize("act", [lambda stage: stage.close(), lambda stage: stage.write(b"x")])
def test_a_stage_in_use_is_no_leftover(
    store: Store, act: Callable[[stage_module.Stage], None]
) -> None:
    """Only a stage that is no longer in use may be swept."""
    stage = store.open_stage("t", "f", "sha256")
    assert not store.is_leftover(stage.name)
    assert store.is_leftover(module.STAGE_PREFIX + "of-a-killed-process")
    assert not store.is_leftover("files")
    act(stage)
    stage.close()
    assert leftovers(store.root) == []
