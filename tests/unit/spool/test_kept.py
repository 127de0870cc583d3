"""Committed files that are kept for a while, on a real directory."""

import os
from pathlib import Path

import pytest

from relayd.spool import kept as module
from relayd.spool.committed import WalPoint
from relayd.spool.identity import Identity, identity_at
from relayd.spool.kept import KeepRules, Kept
from relayd.system.libc import rename_noreplace

HOLD_S = 40.0
RULES = KeepRules(HOLD_S)
HERE = WalPoint("00000000000000aa", 100)
ELSEWHERE = WalPoint("00000000000000bb", 50)


class Shelf:
    """A spool with a store of kept files.

    Attributes:
        now: the time, by every clock.
    """

    def __init__(self, incoming: Path, rules: KeepRules = RULES) -> None:
        self.incoming = incoming
        self.held = incoming.parent / "held"
        self.held.mkdir()
        self.rules = rules
        self.now = 1000.0
        self.kept = self.start()

    def start(self, wall: float = 0.0) -> Kept:
        """Return what a new process has; `wall`: how far its Unix time is set."""
        self.kept = Kept(
            self.held,
            self.incoming,
            self.rules,
            monotonic=lambda: self.now + 7,
            wall=lambda: self.now + wall,
        )
        self.kept.find()
        return self.kept

    def write(self, name: str, content: str = "x") -> Identity:
        """Upload a file."""
        path = self.incoming / name
        path.write_text(content)
        return identity_at(path)

    def put(self, name: str, point: WalPoint | None = HERE, content: str = "x") -> None:
        """Commit a file."""
        known = self.write(name, content)
        assert self.kept.put_all([(name, known, point)]) == ["removed"]
        assert not (self.incoming / name).exists()

    def names(self) -> list[str]:
        """Names of what is kept."""
        return sorted(path.name for path in self.held.glob("*/*"))

    def waiting(self) -> list[str]:
        """Names in the watched directory."""
        return sorted(path.name for path in self.incoming.iterdir())


@pytest.fixture
def shelf(spool: Path) -> Shelf:
    """Return an empty one."""
    return Shelf(spool)


def test_files_are_released_after_their_time(shelf: Shelf) -> None:
    """A file stays for the hold, and is removed once the server is confirmed to be the same."""
    shelf.put("a.log")
    shelf.now += HOLD_S - 1
    shelf.kept.at = WalPoint(HERE.history, 200)
    assert shelf.kept.release() == 0
    shelf.now += 1 + RULES.slice_s
    assert shelf.kept.release() == 1
    assert (shelf.names(), shelf.kept.files, shelf.kept.size) == ([], 0, 0)
    assert list(shelf.held.iterdir()) == []


def test_nothing_is_released_while_the_server_is_unknown_or_another(shelf: Shelf) -> None:
    """A file outlives its time until the database was seen, and as long as it may lack the rows."""
    shelf.put("a.log")
    shelf.now += 10 * HOLD_S
    assert shelf.kept.release() == 0
    shelf.kept.at = ELSEWHERE
    assert shelf.kept.release() == 0
    assert shelf.names() == ["a.log"]


def test_files_of_another_history_are_offered_again(shelf: Shelf) -> None:
    """Files go back under their names, unchanged, and only those whose commits are in doubt."""
    shelf.put("a.log", content="content")
    shelf.put("b.log", ELSEWHERE)
    shelf.kept.at = ELSEWHERE
    assert shelf.kept.doubtful == 1
    assert shelf.kept.offer(10) == 1
    assert (shelf.waiting(), shelf.names()) == (["a.log"], ["b.log"])
    assert (shelf.incoming / "a.log").read_text() == "content"
    assert shelf.kept.offered == {"a.log"}
    assert (shelf.kept.files, shelf.kept.doubtful) == (1, 0)


def test_a_file_without_a_point_is_offered_again(shelf: Shelf) -> None:
    """Where a file was committed before it could be moved is unknown, so it is looked up."""
    shelf.put("a.log", None)
    shelf.kept.at = HERE
    assert shelf.kept.offer(10) == 1


def test_offers_are_bounded_and_begin_with_the_oldest(shelf: Shelf) -> None:
    """A large hold goes back in parts, in the order of the commits."""
    for number in range(5):
        shelf.put(f"{9 - number}.log", WalPoint(HERE.history, number))
        shelf.now += RULES.slice_s + 1
    shelf.kept.at = ELSEWHERE
    assert shelf.kept.offer(2) == 2
    assert shelf.waiting() == ["8.log", "9.log"]
    assert shelf.kept.offer(10) == 3


@pytest.mark.parametrize("kill", ["before", "between"])
def test_a_new_process_finds_what_was_kept(shelf: Shelf, kill: str) -> None:
    """After a kill, also in the middle of an offer, nothing is forgotten, and time goes on."""
    shelf.put("a.log")
    shelf.put("b.log", content="longer")
    if kill == "between":
        shelf.kept.at = ELSEWHERE
        shelf.kept.offer(1)
    shelf.now += HOLD_S / 2
    kept = shelf.start()
    if kill == "between":
        assert (shelf.waiting(), shelf.names()) == (["a.log"], ["b.log"])
        kept.at = ELSEWHERE
        assert kept.offer(10) == 1
        assert shelf.waiting() == ["a.log", "b.log"]
        return
    assert (kept.files, kept.size) == (2, 7)
    kept.at = HERE
    assert (kept.doubtful, kept.release()) == (0, 0)
    shelf.now += HOLD_S / 2 + RULES.slice_s
    assert kept.release() == 2


@pytest.mark.parametrize("set_by", [-86_400.0, 86_400.0])
def test_a_changed_clock_keeps_files_no_longer_than_the_hold(shelf: Shelf, set_by: float) -> None:
    """A clock that was set keeps files neither for ever nor for longer than others."""
    shelf.put("a.log")
    kept = shelf.start(wall=set_by)
    kept.at = HERE
    shelf.now += HOLD_S + RULES.slice_s
    assert kept.release() == 1


def test_a_server_that_was_set_back_between_two_starts(shelf: Shelf) -> None:
    """A position before the one of the commits puts them in doubt, for a new process too."""
    shelf.put("a.log")
    kept = shelf.start()
    kept.at = WalPoint(HERE.history, HERE.position - 1)
    assert kept.doubtful == 1
    kept.at = HERE
    assert kept.doubtful == 0


def test_a_file_whose_name_is_taken_waits(shelf: Shelf) -> None:
    """An upload of the same name is not replaced: the kept file follows once the name is free."""
    shelf.put("a.log", content="old")
    shelf.write("a.log", "new")
    shelf.kept.at = ELSEWHERE
    assert shelf.kept.offer(10) == 0
    assert (shelf.incoming / "a.log").read_text() == "new"
    assert shelf.kept.offered == set()
    (shelf.incoming / "a.log").unlink()
    assert shelf.kept.offer(10) == 1
    assert (shelf.incoming / "a.log").read_text() == "old"


def test_two_files_of_one_name_are_both_kept(shelf: Shelf) -> None:
    """A name that comes again within seconds replaces nothing that is kept."""
    shelf.put("a.log", content="one")
    shelf.put("a.log", content="two")
    found = sorted(path.read_text() for path in shelf.held.glob("*/*"))
    assert found == ["one", "two"]


def test_a_newer_file_is_not_kept_for_the_one_that_was_read(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes the name before or within the move was never read, and stays to be."""
    known = shelf.write("a.log")
    shelf.write("a.log", "newer")
    assert shelf.kept.put("a.log", known, HERE) == "changed"
    known = identity_at(shelf.incoming / "a.log")

    def late(source: Path, target: Path) -> None:
        if source.parent == shelf.incoming:
            (shelf.incoming / "new").write_text("newest")
            (shelf.incoming / "new").rename(source)
        rename_noreplace(source, target)

    monkeypatch.setattr(module, "rename_noreplace", late)
    assert shelf.kept.put("a.log", known, HERE) == "changed"
    assert (shelf.incoming / "a.log").read_text() == "newest"
    assert (shelf.names(), shelf.kept.files, shelf.kept.size) == ([], 0, 0)


def test_a_file_that_is_gone_is_no_error(shelf: Shelf) -> None:
    """What somebody has taken away is not kept; what they did to the directories is repaired."""
    known = shelf.write("a.log")
    (shelf.incoming / "a.log").unlink()
    assert shelf.kept.put("a.log", known, HERE) == "gone"
    shelf.put("b.log")
    for path in (*shelf.held.glob("*/*"), *shelf.held.iterdir()):
        path.unlink() if path.is_file() else path.rmdir()
    shelf.put("c.log")
    assert (shelf.names(), shelf.kept.files) == (["c.log"], 1)


@pytest.mark.parametrize("rules", [KeepRules(HOLD_S, 32), KeepRules(HOLD_S, 0, 64)])
def test_beyond_the_bound_the_oldest_are_released_first(spool: Path, rules: KeepRules) -> None:
    """Files and bytes are bounded; what was released too early is counted."""
    shelf = Shelf(spool, rules)
    for number in range(50):
        shelf.put(f"{number:02}.log", content="xx")
    assert len(shelf.names()) == shelf.kept.files <= 32
    assert shelf.names()[-1] == "49.log"
    assert shelf.names() == [f"{number:02}.log" for number in range(50 - shelf.kept.files, 50)]
    assert shelf.kept.take_early() == 50 - shelf.kept.files
    assert shelf.kept.take_early() == 0


def test_files_in_doubt_are_never_released_early(spool: Path) -> None:
    """At the bound, files that the database may lack stay until they were offered."""
    shelf = Shelf(spool, KeepRules(HOLD_S, 4))
    shelf.put("a.log")
    shelf.kept.at = ELSEWHERE
    for number in range(10):
        shelf.put(f"{number}.log", ELSEWHERE)
    assert "a.log" in shelf.names()
    assert shelf.kept.take_early() > 0


def test_one_file_that_cannot_be_moved_holds_up_no_other(shelf: Shelf) -> None:
    """The result of a batch has an error for the file that stays."""
    known = [shelf.write("a.log"), shelf.write("b.log")]
    blocked = shelf.held / "blocked"
    results = Kept(blocked, shelf.incoming, RULES).put_all(
        [("a.log", known[0], HERE), ("b.log", known[1], HERE)]
    )
    assert all(isinstance(result, OSError) for result in results)
    blocked.mkdir()
    assert shelf.waiting() == ["a.log", "b.log"]


def test_names_that_left_unnoticed_are_forgotten(shelf: Shelf) -> None:
    """An offered file that was refused or removed does not count as being processed for ever."""
    shelf.put("a.log")
    shelf.put("b.log")
    shelf.kept.at = ELSEWHERE
    shelf.kept.offer(10)
    (shelf.incoming / "a.log").unlink()
    shelf.kept.forget_offered({"c.log"}.__contains__)
    assert shelf.kept.offered == {"b.log"}


def test_what_is_not_relayds_is_left_alone(shelf: Shelf) -> None:
    """Other files and directories in `held` are neither counted nor touched."""
    (shelf.held / "notes.txt").write_text("x")
    (shelf.held / "lost+found").mkdir()
    kept = shelf.start()
    kept.at = ELSEWHERE
    assert (kept.files, kept.offer(10, everything=True)) == (0, 0)
    assert sorted(os.listdir(shelf.held)) == ["lost+found", "notes.txt"]  # noqa: PTH208
