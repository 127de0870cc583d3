"""Expired shared files are removed, everything else stays, and no error ends the sweeps."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.shared.expiry import run_expiry, sweep
from relayd.shared.metadata import parse_metadata
from relayd.shared.store import STAGE_PREFIX, Store
from relayd.shared.usage import Quota, Usage
from tests.support.http import eventually
from tests.support.shared import joined, lines

NOW = 1_700_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "shared")


def put(store: Store, file: str, expires: int, source: str = "s") -> None:
    """Store a pair that expires at a given time."""
    stage = store.open_stage("t", file, "sha512")
    stage.write(b"content")
    metadata = parse_metadata(joined(lines(b"content"))).expiring(expires)
    store.put(stage, source, metadata.text())
    stage.close()


def names(store: Store) -> list[str]:
    """Return the names of all files."""
    return sorted(
        path.name for path in store.root.rglob("*") if path.is_file() and not path.is_symlink()
    )


@pytest.mark.history(36, 37)
def test_expired_pairs_disappear(store: Store) -> None:
    """File and metadata are removed together, even with dots in the name; the rest stays."""
    put(store, "application.properties", NOW - 1)
    put(store, "application", NOW + 1)
    put(store, "old", NOW, source="other")
    assert sweep(store, NOW) == 2
    assert names(store) == ["application", "application.metadata"]


@pytest.mark.history(38)
def test_one_without_a_time_stays(store: Store) -> None:
    """A file without an expiry in its metadata never expires."""
    put(store, "f", 1)
    (store.root / "t/files/s/f.metadata").write_bytes(joined(lines(b"content")))
    assert sweep(store, NOW) == 0


@pytest.mark.history(36)
def test_one_that_cannot_be_read_does_not_end_the_sweep(store: Store) -> None:
    """Broken entries are logged by name and skipped."""
    for source in ("a", "b", "c"):
        put(store, "f", 1, source=source)
    for source in ("b", "x"):
        place = store.root / "t" / "files" / source
        place.mkdir(exist_ok=True)
        (place / "0.metadata").write_bytes(b"\xff\xfe")
        (place / "1.metadata").mkdir()
        (place / "2.metadata").symlink_to("/etc/passwd")
    (store.root / "file").write_text("x")
    (store.root / "empty").mkdir()
    with capture_logs() as logs:
        assert sweep(store, NOW) == 3
    assert names(store) == ["0.metadata", "0.metadata", "file"]
    assert [entry["event"] for entry in logs].count("metadata cannot be read") == 2


def test_no_store_is_nothing_to_do(tmp_path: Path) -> None:
    """The missing directory before the first upload causes no warning."""
    with capture_logs() as logs:
        assert sweep(Store(tmp_path / "nothing"), NOW) == 0
    assert logs == []


@pytest.mark.fault("A9")
def test_what_a_killed_upload_left_is_removed(store: Store) -> None:
    """Stages of a previous process are removed; one that is in use stays."""
    put(store, "f", NOW + 1)
    left = store.root / "t" / (STAGE_PREFIX + "0")
    left.mkdir()
    (left / "f").write_text("half")
    stage = store.open_stage("t", "g", "sha512")
    sweep(store, NOW)
    assert not left.exists()
    assert (store.root / "t" / stage.name).is_dir()
    stage.close()


@pytest.mark.fault("A12")
def test_asked_for_while_it_expires(store: Store) -> None:
    """Metadata are returned for existing files only, without errors while files are dropped."""
    results: set[bool] = set()

    def ask() -> None:
        for _ in range(300):
            try:
                results.add(bool(store.metadata("t", "s", "f")))
            except FileNotFoundError:
                results.add(False)

    def expire() -> None:
        for _ in range(100):
            put(store, "f", NOW - 1)
            sweep(store, NOW)

    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(ask), pool.submit(expire)]:
            future.result()
    assert results <= {True, False}
    assert names(store) == []


async def test_sweeps_again_and_again(store: Store) -> None:
    """A file that expires later is removed by a later sweep."""
    usage = Usage(Quota())
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_expiry, store, usage, 0.01)
            for _ in range(2):
                expires = int(time.time()) - 1
                put(store, "f", expires)
                usage.added("t", "s", 7, None, expires)
                await eventually(lambda: names(store) == [])
            nursery.cancel_scope.cancel()
