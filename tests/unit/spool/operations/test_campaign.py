"""No operation loses or doubles a file, whatever happens at the same time."""

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relayd.errors import Reason, Refused
from relayd.fleet.finding import find_nodes
from relayd.runlog.filename import run_of
from relayd.spool.disposal import RefusedFile, quarantine, remove, requeue
from relayd.spool.failed import returning
from relayd.spool.failed.quarantine import quarantine_all
from relayd.spool.failed.reasons import SUFFIX
from relayd.spool.failed.refusals import Refusal, read_refusals
from relayd.spool.identity import Identity, identity_at
from relayd.spool.layout import Spool as SpoolOnDisk
from relayd.spool.layout import run_log_spool
from relayd.spool.operations import act
from relayd.spool.operations.act import NoClaims, drop, hold, release
from relayd.spool.operations.choose import Choice, choose
from relayd.spool.operations.entries import Entry, read_entries
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.rules import read_rules

NODES: Final = ("web", "db")
NAMES: Final = tuple(
    f"2026-03-01T12:0{minute}:00+00:00@{node}.log" for node in NODES for minute in range(2)
)
_RUNS: Final = [run for name in NAMES if (run := run_of(name)) is not None]
NOW: Final = max(date for _, date in _RUNS)
#: By node, by name, and by age.
CHOICES: Final = (
    *(Choice(nodes=(node,)) for node in NODES),
    Choice(names=NAMES[:1]),
    Choice(names=NAMES[1:3]),
    Choice(older=30.0),
    Choice(newer=30.0),
    Choice(),
)

Step = Iterator[object]
REFUSED: Final = Refused(Reason.SIGNATURE, "changed")


class Busy:
    """The names that relayd works on, and those that operators have claimed."""

    def __init__(self, forget: Callable[[str], None]) -> None:
        self.forget = forget
        self.in_flight: set[str] = set()
        self.yielding: set[str] = set()

    def let_go(self, name: str) -> None:
        """Let an operator have what the daemon has taken up and put back."""
        self.yielding.discard(name)
        self.forget(name)
        self.in_flight.discard(name)

    def claim(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Take free names into flight."""
        ours = [name for name in names if name not in self.in_flight]
        self.in_flight |= set(ours)
        return ours

    def recall(self, directory: Path, names: Sequence[str]) -> Collection[str]:
        """Take free names into flight; the daemon lets go of some of the others."""
        for name in names:
            if name in self.yielding:
                self.let_go(name)
        return self.claim(directory, names)

    def settle(self, directory: Path, left: Collection[str], stay: Collection[str]) -> None:
        """Let go of names."""
        self.in_flight -= {*left, *stay}


def upload(directory: Path, name: str, content: str) -> None:
    """Let a web server put a file in place, over one of the same name."""
    temporary = directory / ".davfs.tmp1"
    temporary.write_text(content)
    temporary.rename(directory / name)


def contents(directory: Path) -> list[str]:
    """Return what the files below a directory contain."""
    return sorted(
        path.read_text()
        for path in directory.rglob("*.log*")
        if path.is_file() and path.suffix != SUFFIX
    )


def make_content(number: int) -> str:
    """Return what only one file contains; its size makes it another one for relayd too."""
    return f"{number} {'x' * number}"


class Spool(RuleBasedStateMachine):
    """Operators, uploads, relayd and crashes on one spool, one system call after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        self.spool = run_log_spool(Path(self._place.name))
        self.incoming = self.spool.watched[0]
        self.incoming.mkdir()
        self.busy = Busy(self.forget)
        self.working: dict[str, tuple[str, Identity]] = {}
        self.operations: list[Step] = []
        self.alive: set[str] = set()
        self.number = 0

    @rule(name=st.sampled_from(NAMES))
    def arrive(self, name: str) -> None:
        """A file arrives; one of its name that waits is replaced."""
        path = self.incoming / name
        if path.exists():
            self.alive.discard(path.read_text())
        self.number += 1
        content = make_content(self.number)
        upload(self.incoming, name, content)
        self.alive.add(content)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        """The daemon takes a file up that nobody works on."""
        name = data.draw(st.sampled_from(self.waiting()))
        if self.busy.claim(self.incoming, [name]):
            path = self.incoming / name
            self.working[name] = path.read_text(), identity_at(path)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """The daemon has stored what it took up; that very file must still be where it was."""
        name = data.draw(st.sampled_from(sorted(self.working)))
        content, known = self.working.pop(name)
        self.busy.yielding.discard(name)
        removal = remove(self.incoming, name, known)
        assert removal == ("removed" if content in self.alive else "changed")
        self.alive.discard(content)
        self.busy.settle(self.incoming, [name], ())

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """The daemon refuses what it took up, unless a newer file has taken its name."""
        name = data.draw(st.sampled_from(sorted(self.working)))
        content, known = self.working.pop(name)
        self.busy.yielding.discard(name)
        node = name.partition("@")[2].removesuffix(".log")
        file = RefusedFile(name, known, REFUSED, node, "trust")
        moved = quarantine(self.incoming, self.spool.failed, file)
        assert (moved == "changed") == (content not in self.alive)
        self.busy.settle(self.incoming, [name], ())

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def wait_for_output(self, data: st.DataObject) -> None:
        """The output is away: an operator who recalls what the daemon took up may have it."""
        self.busy.yielding.add(data.draw(st.sampled_from(sorted(self.working))))

    @rule()
    def requeue(self) -> None:
        """The daemon takes back what it may have refused wrongly."""
        requeue(self.spool.failed, self.incoming, lambda record: record.trust == "trust")

    def forget(self, name: str) -> None:
        """The daemon no longer works on a file that it has put back."""
        self.working.pop(name, None)

    def waiting(self) -> list[str]:
        """Return the names in the watched directory."""
        return sorted(path.name for path in self.incoming.iterdir())

    @rule(
        held=st.booleans(),
        choice=st.sampled_from(CHOICES),
        what=st.sampled_from("hrd"),
    )
    def begin(self, held: bool, choice: Choice, what: str) -> None:
        """An operator begins an operation; what there is now is what was chosen."""
        found = sorted(read_entries([self.spool]), key=lambda entry: entry.rank)
        chosen = choose(found, choice, frozenset(choice.nodes) or None, NOW)
        waiting = [entry for entry in chosen if not entry.layer]
        aside = [entry for entry in chosen if entry.layer]
        if what == "h":
            self.operations.append(hold(waiting, self.busy))
        elif what == "r":
            self.operations.append(release(aside))
        else:
            self.operations.append(self.dropping(aside if held else waiting))

    @rule(node=st.sampled_from(NODES), dropped=st.booleans())
    def begin_with_refused(self, node: str, dropped: bool) -> None:
        """An operator begins to bring refused files back, or to drop them."""
        refusals = read_refusals([self.spool])
        chosen = [refusal for refusal in refusals if refusal.node_id == node]
        self.operations.append(
            self.dropping_refused(chosen) if dropped else map(returning.bring_back, chosen)
        )

    def dropping_refused(self, refusals: list[Refusal]) -> Step:
        """Drop refused files one by one, and take note of what was dropped."""
        for refusal in refusals:
            before = refusal.path.read_text() if refusal.path.exists() else ""
            for done in returning.drop([refusal]):
                if done.outcome == "removed":
                    self.alive.remove(before)
                yield done

    def dropping(self, entries: list[Entry]) -> Step:
        """Drop files one by one, and take note of what was dropped."""
        for entry in entries:
            before = path.read_text() if (path := Path(entry.path)).exists() else ""
            for done in drop([entry], self.busy):
                if done.outcome == "dropped":
                    self.alive.remove(before)
                yield done

    @precondition(lambda self: self.operations)
    @rule(data=st.data(), steps=st.integers(1, 4))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        """One of the operations moves some files."""
        number = data.draw(st.integers(0, len(self.operations) - 1))
        for _ in range(steps):
            if next(self.operations[number], None) is None:
                del self.operations[number]
                break

    @rule(dice=st.integers(0, 9))
    def crash(self, dice: int) -> None:
        """Daemon and operators are killed, now and then."""
        if dice < 9:
            return
        self.operations.clear()
        self.busy = Busy(self.forget)
        self.working.clear()

    @invariant()
    def every_file_is_there_once(self) -> None:
        """All that arrived and was neither stored nor dropped is in one place."""
        assert contents(self.spool.directory) == sorted(self.alive)

    @invariant()
    def what_is_in_flight_stays(self) -> None:
        """A file that the daemon works on is not set aside as well, or it would be stored twice."""
        for name, (content, _) in self.working.items():
            if content in self.alive:
                assert (self.incoming / name).read_text() == content

    def teardown(self) -> None:
        """Remove the files of this example."""
        self._place.cleanup()


@pytest.mark.timeout(120)
def test_operators_uploads_and_crashes_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At any interleaving, each file is in exactly one place, and what is in flight stays there."""
    monkeypatch.setattr(act, "BATCH", 1)
    run_state_machine_as_test(
        Spool, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def killed_at(number: int, call: Callable[[], object]) -> bool:
    """Call in a child that ends without a word before its n-th call of a built-in function.

    Returns:
        Whether the child was ended.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    calls = 0

    def profile(_frame: FrameType, event: str, _function: Any) -> None:
        nonlocal calls
        if event == "c_call":
            calls += 1
            if calls == number:
                os._exit(1)

    sys.setprofile(profile)
    call()
    os._exit(0)


@pytest.mark.parametrize("action", ["hold", "release", "drop"])
def test_a_kill_between_any_two_system_calls_loses_and_doubles_nothing(
    tmp_path: Path, action: str
) -> None:
    """Files are where they were or where they belong, and the same command then completes."""
    number, going = 0, True
    while going:
        number += 3
        spool = run_log_spool(tmp_path / str(number))
        spool.watched[0].mkdir(parents=True)
        for name in NAMES:
            upload(spool.watched[0], name, name)
        choice = Choice(nodes=("web",))
        queue = Queue([spool], {}, lambda _: "", find_nodes)
        if action != "hold":
            queue.hold(choice)
        if action == "drop":
            upload(spool.watched[0], NAMES[0], "another")
        going = killed_at(number, lambda: getattr(queue, action)(choice))  # noqa: B023
        rules = read_rules(spool)  # readable at any time
        left = contents(spool.directory)
        if action == "drop":
            assert set(left) >= set(NAMES[2:])
            assert len(left) == len(set(left))
        else:
            assert left == sorted(NAMES)
            if rules and action == "hold":
                assert rules.keys() == {"web"}
        getattr(queue, action)(choice)
        waiting = sorted(path.name for path in spool.watched[0].iterdir())
        assert waiting == sorted(NAMES if action == "release" else NAMES[2:])
        assert (read_rules(spool).keys() == {"web"}) == (action != "release")
    assert number > 30


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.torture)])
@pytest.mark.parametrize("action", ["refuse", "replay", "drop"])
def test_a_kill_loses_and_doubles_no_refused_file(tmp_path: Path, action: str, step: int) -> None:
    """Files are among those that wait or those that were refused, and the same then completes."""

    def refuse(spool: SpoolOnDisk) -> None:
        (incoming,) = spool.watched
        files = [
            RefusedFile(path.name, identity_at(path), REFUSED, "", "")
            for path in sorted(incoming.iterdir())
        ]
        quarantine_all(incoming, spool.failed, files)

    def act_on(spool: SpoolOnDisk) -> None:
        if action == "refuse":
            refuse(spool)
        elif action == "replay":
            list(map(returning.bring_back, read_refusals([spool])))
        else:
            list(returning.drop(read_refusals([spool])))

    number, going = 0, True
    while going:
        number += step
        spool = run_log_spool(tmp_path / str(number))
        spool.watched[0].mkdir(parents=True)
        for name in NAMES:
            upload(spool.watched[0], name, name)
        if action != "refuse":
            refuse(spool)
        going = killed_at(number, lambda: act_on(spool))  # noqa: B023
        left = contents(spool.directory)
        assert left == sorted(NAMES) if action != "drop" else set(left) <= set(NAMES)
        act_on(spool)
        places = spool.watched[0] if action == "replay" else spool.failed
        assert contents(places) == contents(spool.directory)
        assert contents(spool.directory) == ([] if action == "drop" else sorted(NAMES))
    assert number > 20


def test_nothing_is_claimed_without_a_daemon() -> None:
    """All names are free for a command that has the lock of the spool."""
    assert list(NoClaims().claim(Path("x"), ["a", "b"])) == ["a", "b"]
