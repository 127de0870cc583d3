"""Listing a spool directory."""

import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.spool.watching import listing
from relayd.spool.watching.listing import Listing, is_ours, oldest

EXTENSIONS = frozenset({"gz", "zip", "log"})
NOW = 1_800_000_000.0


def put(directory: Path, name: str, age: float = 100.0) -> None:
    """Make a file that was last modified `age` seconds before NOW."""
    (directory / name).touch()
    os.utime(directory / name, (NOW - age, NOW - age))


def take_listing(
    directory: Path,
    *,
    limit: int = 100,
    min_age: float = 0.0,
    exclude: Callable[[str], bool] = lambda _: False,
) -> Listing:
    """Take a listing at NOW."""
    return oldest(directory, EXTENSIONS, limit=limit, min_age=min_age, exclude=exclude, now=NOW)


@pytest.mark.history(6)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.log", True),
        ("a.log.gz", True),
        ("a.log.zip", True),
        ("a_b.gz", True),
        ("\udcff\x1b\n.log", True),
        (".davfs.tmpAb3xY9", False),
        (".davfs.tmp.log", False),
        (".log", False),
        ("a.LOG", False),
        ("a.log.tmp", False),
        ("a.ocs", False),
        ("log", False),
        ("a.log\n", False),
        ("", False),
    ],
)
def test_known_extensions_count(name: str, *, expected: bool) -> None:
    """A file counts if its extension matches exactly, unless its name begins with a dot."""
    assert is_ours(name, EXTENSIONS) is expected


@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,3}\.(log|gz|tmp)", fullmatch=True),
        st.integers(-1000, 1000),
        max_size=12,
    ),
    limit=st.integers(0, 6),
    min_age=st.integers(0, 500),
)
def test_lists_the_oldest_first(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, int], limit: int, min_age: int
) -> None:
    """The names are the oldest eligible ones in order; the counts include those left out."""
    directory = tmp_path_factory.mktemp("spool")
    for name, age in files.items():
        put(directory, name, age)
    known = sorted((-age, name) for name, age in files.items() if not name.endswith("tmp"))
    eligible = [name for mtime, name in known if not 0 <= -mtime < min_age]
    listing = take_listing(directory, limit=limit, min_age=min_age)
    assert listing.names == eligible[:limit]
    assert listing.more == (len(eligible) > limit)
    assert listing.total == len(known)
    assert listing.oldest_mtime == (NOW + known[0][0] if known else None)


@pytest.mark.fault("S7")
@pytest.mark.history(3)
def test_temporary_names_take_no_part(tmp_path: Path) -> None:
    """Thousands of uploads in progress do not count towards the limit of a listing."""
    for number in range(10_000):
        (tmp_path / f".davfs.tmp{number:06x}").touch()
    put(tmp_path, "a.log")
    put(tmp_path, "b.log", 50)
    listing = take_listing(tmp_path, limit=1)
    assert listing == Listing(["a.log"], True, 2, NOW - 100, [None], [NOW - 100], [0])


@pytest.mark.history(7)
def test_entries_that_vanish_are_skipped(tmp_path: Path) -> None:
    """Files removed while the directory is listed do no harm."""
    for number in range(20):
        put(tmp_path, f"{number}.log")

    def remove_the_others(name: str) -> bool:
        for path in tmp_path.iterdir():
            if path.name != name:
                path.unlink()
        return False

    listing = take_listing(tmp_path, exclude=remove_the_others)
    assert len(listing.names) == listing.total == 1


@pytest.mark.fault("T1")
def test_file_from_the_future_counts_as_old(tmp_path: Path) -> None:
    """A modification time ahead of the clock does not hide a file."""
    put(tmp_path, "future.log", -86_400)
    put(tmp_path, "young.log", 5)
    assert take_listing(tmp_path, min_age=30).names == ["future.log"]


@pytest.mark.fault("T3")
def test_files_from_before_the_clock_went_back_are_listed(tmp_path: Path) -> None:
    """After the clock was set back an hour, recent files do not wait for an hour."""
    put(tmp_path, "a.log", -3595)
    assert take_listing(tmp_path, min_age=30).names == ["a.log"]


def test_excluded_names_count_but_are_left_out(tmp_path: Path) -> None:
    """Files in flight count towards the size of the backlog, but are not among the names."""
    put(tmp_path, "a.log")
    put(tmp_path, "b.log")
    listing = take_listing(tmp_path, exclude=lambda name: name == "a.log")
    assert (listing.names, listing.more, listing.total) == (["b.log"], False, 2)


def test_names_that_are_no_utf8_are_listed(tmp_path: Path) -> None:
    """A listed name opens its file, whatever bytes it consists of."""
    names = [b"\xff.log", b"new\nline.log", b"\x1b[31m.gz", b"x" * 251 + b".log"]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    assert sorted(os.fsencode(name) for name in take_listing(tmp_path).names) == sorted(names)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_file_is_listed_too(tmp_path: Path, kind: str) -> None:
    """FIFOs, links (even broken ones) and directories with a known extension are listed."""
    path = tmp_path / "x.log"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/nowhere")
    else:
        path.mkdir()
    assert take_listing(tmp_path).names == ["x.log"]


def test_memory_does_not_grow_with_the_directory(tmp_path: Path) -> None:
    """Memory depends on the limit alone: twenty times the files need no more of it."""
    peaks = []
    for count in (1_000, 20_000):
        for number in range(count):
            (tmp_path / f"{number}.log").touch()
        tracemalloc.start()
        assert take_listing(tmp_path, limit=100).more
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000


def test_directory_that_cannot_be_read_raises(tmp_path: Path) -> None:
    """A missing directory raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        take_listing(tmp_path / "missing")


@pytest.mark.fault("F18")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 59)), unique=True, max_size=400),
    st.integers(1, 20),
)
def test_a_listing_has_the_oldest_runs_of_all_nodes(
    files: list[tuple[str, int]], limit: int
) -> None:
    """No node has two files more than one of which some are left out, however often it is cut."""
    found: list[listing._Found] = []
    unlisted: dict[str, float] = {}
    runs = {f"{minute}@{node}": (node, float(minute)) for node, minute in files}
    for name, run in runs.items():
        found.append((run[1], name, run, run[1], 0))
        if len(found) > 2 * limit:
            listing._cut(found, limit, unlisted)
    listing._cut(found, limit, unlisted)
    kept = [run for _, _, run, _, _ in found if run is not None]
    assert len(kept) == min(limit, len(files))
    assert kept == sorted(kept, key=lambda run: run[1])
    counts = Counter(node for node, _ in kept)
    for node, oldest_left in unlisted.items():
        dates = sorted(date for each, date in runs.values() if each == node)
        assert [date for each, date in kept if each == node] == dates[: counts[node]]
        assert oldest_left == dates[counts[node]]
        assert max(counts.values()) <= counts[node] + 1
