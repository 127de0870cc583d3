"""What operators see of the files of all spools, and how they choose some of them."""

import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from relayd.errors import StartError
from relayd.fleet.finding import find_nodes
from relayd.spool.layout import Spool, inventory_spool, run_log_spool
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.entries import node_of
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.rules import read_rules, rules_path
from relayd.spool.operations.shape import FLOOD_FILES
from relayd.system.printable import printable

WEB, DB = "e3a1b2c4-aaaa-4f7d-9d2a-0000000000aa", "e3a1ffff-bbbb-4f7d-9d2a-0000000000bb"
HOSTS = {WEB: "web.test", DB: "db.test"}


class Site:
    """Both spools of a root server with two nodes, of which one is behind a relay."""

    def __init__(self, root: Path) -> None:
        self.reports = run_log_spool(root / "reports")
        self.inventories = inventory_spool(root / "inventories")
        for spool in (self.reports, self.inventories):
            for path in spool.watched:
                path.mkdir(parents=True)
        self.incoming = self.reports.watched[0]
        self.queue = Queue(
            (self.reports, self.inventories),
            HOSTS,
            lambda node: "relay" if node == DB else "",
            find_nodes,
        )

    def add(self, node: str, age: float = 0.0, suffix: str = ".log.gz") -> str:
        """Let a run log arrive, of a run some seconds ago."""
        date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age))
        name = f"{date}@{node}{suffix}"
        (self.incoming / name).write_text(name)
        return name

    def names(self, choice: Choice) -> list[str]:
        """Return the names of the chosen files, the oldest first."""
        return [file.name for file in self.queue.files(choice).files]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_files_are_chosen_by_all_conditions_at_once(site: Site) -> None:
    """Name, path, node, pattern, age and state; what is no file of a spool is no candidate."""
    old, young = site.add(WEB, 7200), site.add(WEB, 10)
    other = site.add(DB, 7200)
    (site.incoming / ".davfs.tmp1").touch()
    (site.incoming / "strange.log").touch()
    everything = {old, young, other, "strange.log"}
    assert set(site.names(Choice())) == everything
    assert site.names(Choice(nodes=("web",))) == [old, young]
    assert site.names(Choice(nodes=("web", DB), older=3600)) == sorted([old, other])
    assert site.names(Choice(newer=60, match=("*@*",))) == [young]
    assert site.names(Choice(names=(young, str(site.incoming / old)))) == [old, young]
    assert site.names(Choice(nodes=("web",), older=60, by_arrival=True)) == []
    site.queue.hold(Choice(names=(old,)))
    assert site.names(Choice(state="held")) == [old]
    assert set(site.names(Choice(state="waiting"))) == everything - {old}
    with pytest.raises(StartError, match=r"2 nodes fit: db\.test, web\.test"):
        site.names(Choice(nodes=("e3a1",)))
    with pytest.raises(StartError, match="no node has this"):
        site.names(Choice(nodes=("mail",)))


@pytest.mark.parametrize(
    ("name", "ordered", "node"),
    [
        (f"2026-03-01T12:00:00+00:00@{WEB}.log.gz", True, WEB),
        (f"{WEB}_2026-03-01T12_00_00Z.log", True, WEB),
        ("strange.log", True, ""),
        (f"web.test-{WEB}.ocs.gz", False, WEB),
        (f"{WEB}.ocs.sign", False, WEB),
        ("server-root.xml", False, "root"),
        ("strange.ocs", False, ""),
    ],
)
def test_node_is_in_the_name(name: str, ordered: bool, node: str) -> None:
    """Run logs of both forms, and inventories with or without the host name."""
    assert node_of(name, ordered=ordered) == node


def test_hold_moves_both_kinds_and_release_brings_them_back(site: Site) -> None:
    """Every file goes back to the directory it came from, with its content and its order."""
    run_log = site.add(WEB, 60)
    inventory = site.inventories.watched[1] / f"web-{WEB}.ocs"
    inventory.write_text("inventory")
    kept = site.add(DB)
    report = site.queue.hold(Choice(nodes=("web",)), "admin")
    assert (report.files, report.counts, report.nodes) == (2, {"held": 2}, 1)
    assert report.on_hold == ["web.test"]
    assert not inventory.exists()
    assert [path.name for path in site.incoming.iterdir()] == [kept]
    assert (site.reports.on_hold.stat().st_mode & 0o777) == 0o750
    waiting = site.queue.files(Choice())
    assert (waiting.waiting, waiting.held) == (1, 2)
    (on_hold,) = waiting.nodes_on_hold
    assert (on_hold.hostname, on_hold.by, on_hold.files) == ("web.test", "admin", 2)
    report = site.queue.release(Choice(nodes=("web",)))
    assert (report.counts, report.on_hold) == ({"released": 2}, ["web.test"])
    assert inventory.read_text() == "inventory"
    assert (site.incoming / run_log).read_text() == run_log
    assert site.queue.files(Choice()).nodes_on_hold == []


def test_files_of_one_name_are_all_kept(site: Site) -> None:
    """A second one goes beside the first; where a name is taken, the file stays and is named."""
    name = site.add(WEB)
    for content in "ab":
        (site.incoming / name).write_text(content)
        assert site.queue.hold(Choice(names=(name,))).counts == {"held": 1}
    report = site.queue.release(Choice())
    assert report.counts == {"released": 1, "taken": 1}
    assert not report.is_complete
    assert [(one.name, one.outcome) for one in report.stayed] == [(name, "taken")]
    assert (site.incoming / name).read_text() == "a"
    (site.incoming / name).unlink()
    assert site.queue.release(Choice()).counts == {"released": 1}
    assert (site.incoming / name).read_text() == "b"


def test_a_file_of_a_node_on_hold_is_released_with_its_node(site: Site) -> None:
    """It would be set aside again at once; all files are released together with all rules."""
    name = site.add(WEB)
    site.queue.hold(Choice(nodes=("web",)))
    report = site.queue.release(Choice(names=(name,)))
    assert report.counts == {"busy": 1}
    assert "release it with --node" in report.stayed[0].detail
    assert site.queue.release(Choice()).counts == {"released": 1}
    assert read_rules(site.reports) == {}


def test_held_files_are_not_given_up_when_they_come_back(site: Site) -> None:
    """The time of a file begins again, however long it was set aside."""
    name = site.add(WEB)
    site.queue.hold(Choice(names=(name,)))
    os.utime(site.reports.on_hold / "incoming" / name, (1, 1))
    site.queue.release(Choice())
    assert time.time() - (site.incoming / name).stat().st_mtime < 600


def test_trial_changes_nothing(site: Site) -> None:
    """The counts are those of the real thing."""
    site.add(WEB)
    assert site.queue.hold(Choice(nodes=("web",)), trial=True).counts == {"held": 1}
    assert site.queue.drop(Choice(), trial=True).counts == {"dropped": 1}
    assert not site.reports.on_hold.exists()
    site.queue.hold(Choice(nodes=("web",)))
    assert site.queue.release(Choice(nodes=("web",)), trial=True).counts == {"released": 1}
    assert site.queue.drop(Choice()).counts == {"dropped": 1}
    assert read_rules(site.reports).keys() == {WEB}


def test_details_and_names_that_are_not_text(site: Site) -> None:
    """Size and arrival are shown on request; a byte that is no text becomes an escape."""
    raw = os.fsencode(site.incoming) + b"/caf\xe9@x.log"
    Path(os.fsdecode(raw)).write_text("123")
    (shown,) = site.queue.files(Choice(names=("caf\\xe9@x.log",)), details=True).files
    assert (shown.name, shown.bytes, shown.state) == ("caf\\xe9@x.log", 3, "waiting")
    assert shown.arrived_at is not None
    assert printable(shown.file) == shown.file
    assert site.queue.hold(Choice(match=("caf*",))).counts == {"held": 1}


def test_rules_that_cannot_be_read_are_an_error(site: Site) -> None:
    """Nothing is moved by somebody else's file, and the error names it."""
    site.add(WEB)
    site.queue.hold(Choice(nodes=("web",)))
    rules_path(site.reports).write_text("{")
    with pytest.raises(StartError, match=r"nodes\.json is not valid"):
        site.queue.hold(Choice(nodes=("db",)))
    assert len(list(site.reports.on_hold.glob("incoming/*"))) == 1


def test_shape_counts_by_age_and_names_who_floods(site: Site) -> None:
    """Columns by age, the largest nodes first, relays by themselves, held files apart."""
    for number in range(FLOOD_FILES):
        site.add(WEB, 120 + number * 10)
    for age in (30, 1000, 30_000):
        site.add(DB, age)
    shape = site.queue.shape(Choice(), 1)
    assert shape.total.total == FLOOD_FILES + 3
    assert shape.total.ages == (1, 18, 42, 1, 0, 1)
    (flooding,) = shape.nodes
    assert (flooding.hostname, flooding.total, flooding.ages[0]) == ("web.test", FLOOD_FILES, 0)
    assert flooding.flood == pytest.approx(60 / 62)
    assert [(row.node, row.total, row.flood) for row in shape.relays] == [("relay", 3, 0.0)]
    assert shape.other_nodes == 1
    site.queue.hold(Choice(nodes=("web",)))
    shape = site.queue.shape(Choice())
    assert (shape.held, [row.hostname for row in shape.nodes]) == (FLOOD_FILES, ["db.test"])


class Working:
    """A relayd that works on one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settled: list[tuple[set[str], set[str]]] = []
        self.rules: list[set[str]] = []

    def claim(self, directory: Path, names: Collection[str]) -> Collection[str]:
        """Take all names but the one that it works on."""
        return [name for name in names if name != self.name]

    def recall(self, directory: Path, names: Collection[str]) -> Collection[str]:
        """As `claim`: it lets go of nothing."""
        return self.claim(directory, names)

    def settle(self, directory: Path, left: Collection[str], stay: Collection[str]) -> None:
        """Remember what has become of names."""
        self.settled.append((set(left), set(stay)))

    def attempts(self, directory: Path) -> dict[str, object]:
        """Return nothing."""
        return {}

    def note_rules(self, spool: Spool, nodes: Collection[str]) -> None:
        """Remember the rules."""
        self.rules.append(set(nodes))


def test_a_file_in_flight_is_left_alone(site: Site) -> None:
    """It is reported as such; the others go, and relayd learns which have left."""
    name, other = site.add(WEB, 60), site.add(WEB)
    working = Working(name)
    queue = Queue((site.reports,), HOSTS, lambda _: "", find_nodes, working)  # type: ignore[arg-type]
    report = queue.hold(Choice(nodes=("web",)))
    assert report.counts == {"busy": 1, "held": 1}
    assert working.settled == [({other}, set())]
    assert working.rules == [{WEB}]
    assert [path.name for path in site.incoming.iterdir()] == [name]
    assert queue.drop(Choice()).counts == {"busy": 1, "dropped": 1}
    assert (site.incoming / name).exists()
