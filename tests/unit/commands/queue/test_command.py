"""The command `relayd queue` on the spool of a relayd that does not run."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result, _NamedTextIOWrapper

from relayd.commands import asking
from relayd.commands.queue.command import command
from relayd.fleet.finding import find_nodes
from relayd.spool.layout import run_log_spool
from relayd.spool.lock import DirectoryLock
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.shape import FLOOD_FILES
from tests.support.daemon import NOWHERE, Site, make_site
from tests.support.signing import make_key_and_cert

NODES = ("web-12", "db-1")
BACK = "relayd queue release --node web-12.test"


@pytest.fixture(scope="module")
def keys() -> dict[str, tuple[bytes, bytes]]:
    return {node: make_key_and_cert(node) for node in NODES}  # type: ignore[misc]


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, tuple[bytes, bytes]]) -> Site:
    """A root server of two nodes, with an empty spool."""
    site = make_site(tmp_path, NOWHERE, keys)  # type: ignore[arg-type]
    site.incoming.mkdir(parents=True, exist_ok=True)
    return site


def call(site: Site, *arguments: str) -> Result:
    name, *others = arguments
    return CliRunner().invoke(command, [name, "-c", str(site.conf), *others])


def add(site: Site, node: str, age: float) -> str:
    """Let a run log arrive of a run some seconds ago; return its name."""
    date = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age))
    name = f"{date}@{node}.log"
    (site.incoming / name).write_text(name)
    return name


def test_hold_and_release_say_how_to_take_them_back(site: Site) -> None:
    """What was done, for whom, and the command that undoes it, which then does."""
    for age in (10, 20, 30):
        add(site, "web-12", age)
    kept = add(site, "db-1", 10)
    trial = call(site, "hold", "--node", "web", "--dry-run")
    assert trial.output == "would have held 3 files of web-12.test\n"
    result = call(site, "hold", "--node", "web")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"held 3 files of web-12.test; release them with: {BACK}",
            "Files of web-12.test that arrive from now on are put on hold as well.",
        ],
    )
    assert site.waiting() == [kept]
    listed = call(site, "list").output
    assert "1 file waits; 3 on hold" in listed
    assert "What web-12.test sends is on hold since" in listed
    shown = call(site, "show").output
    assert "  dated " in shown
    assert not re.search(r"\dZ", listed + shown)  # people read local times
    assert "relayd does not run" in listed
    result = call(site, "release", "--node", "web-12.test")
    assert result.output.startswith("released 3 files of web-12.test; hold them again with: ")
    assert len(site.waiting()) == 4
    call(site, "hold", "--node", "web-12")
    call(site, "hold", kept)
    released = call(site, "release", "--all").output.replace("\n ", "")
    assert released.startswith("released 4 files of 2 nodes; ")
    assert "hold them again with: relayd queue hold --node web-12.test" in released
    result = call(site, "hold", "--older", "15s", "--match", "2*@web*")
    assert "release them with: relayd queue release --match '2*@web*' --older=15s" in result.output


def test_what_stays_is_named_and_the_exit_code_says_so(site: Site) -> None:
    """A name that is taken keeps its file, and the one on hold stays there."""
    name = add(site, "web-12", 10)
    call(site, "hold", name)
    (site.incoming / name).write_text("newer")
    result = call(site, "release", name)
    assert result.exit_code == 1
    assert "1 file not moved, the spool has a file of this name" in result.output
    assert f"{name}: {site.incoming / name} exists" in result.output
    assert (site.incoming / name).read_text() == "newer"


def test_drop_asks_and_removes(site: Site) -> None:
    """Without a terminal it wants --yes; a trial only counts."""
    add(site, "web-12", 10)
    kept = add(site, "db-1", 10)
    assert "use --yes" in call(site, "drop", "--node", "web").output
    trial = call(site, "drop", "--node", "web", "--dry-run")
    assert trial.output == "would have dropped 1 file of 1 node\n"
    assert len(site.waiting()) == 2
    assert call(site, "drop", "--node", "web", "--yes").output == "dropped 1 file of 1 node\n"
    assert site.waiting() == [kept]


def test_what_arrives_while_drop_asks_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is about the files that were counted in the question."""
    old = [add(site, "web-12", 10), add(site, "db-1", 20)]
    new: list[str] = []

    def answer(question: str, **_options: object) -> bool:
        assert question == "Remove 2 files of 2 nodes for good?"
        new.append(add(site, "web-12", 5))
        return True

    monkeypatch.setattr("click.confirm", answer)
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda _self: True, raising=False)
    assert call(site, "drop", "--all").output == "dropped 2 files of 2 nodes\n"
    assert site.waiting() == new
    assert not set(old) & set(site.waiting())


@pytest.mark.parametrize("action", ["hold", "release", "drop"])
def test_a_name_that_no_file_has_is_no_success(site: Site, action: str) -> None:
    """A script learns of a name with a slip; a node without files is as it should be."""
    add(site, "db-1", 10)
    yes = ("--yes",) if action == "drop" else ()
    result = call(site, action, "nothing.log", *yes)
    assert result.exit_code == 1, result.output
    assert "no file" in result.output
    assert call(site, action, "--node", "web-12", *yes).exit_code == 0


def test_shape_fits_into_eighty_columns_and_names_who_floods(site: Site) -> None:
    """The total first, then the nodes with the most files; the same as JSON."""
    for number in range(FLOOD_FILES):
        add(site, "web-12", 120 + number)
    add(site, "db-1", 40_000)
    lines = call(site, "shape").output.splitlines()
    assert lines[0].split() == ["TOTAL", "<1m", "<5m", "<15m", "<1h", "<6h", "older"]
    assert lines[1].split() == ["total", "61", "0", "60", "0", "0", "0", "1"]
    assert lines[3].split()[:2] == ["db-1.test", "1"]
    assert lines[-2:] == [
        "web-12.test floods: 100% of all in the last hour",
        "  relayd queue hold --node web-12.test",
    ]
    assert max(map(len, lines)) <= 80
    document = json.loads(call(site, "shape", "--json").output)
    assert (document["total"]["total"], document["nodes"][0]["node"]) == (61, "web-12")


def test_list_is_short_for_people_and_whole_for_programs(site: Site) -> None:
    """The oldest come first, and the line after them says how many more there are."""
    names = [add(site, "web-12", 100 - number) for number in range(45)]
    lines = call(site, "list").output.splitlines()
    assert lines[1].endswith(names[0])
    assert "… and 5 more files: --limit 0 lists all." in lines
    documents = [json.loads(line) for line in call(site, "list", "--json").output.splitlines()]
    assert [document["name"] for document in documents] == names
    assert documents[0].keys() == {
        *("file", "name", "node", "hostname", "state", "dated_at", "age_seconds")
    }
    shown = call(site, "show", str(site.incoming / names[0])).output
    assert "failed attempts" in shown
    assert "web-12.test web-12" in shown
    assert call(site, "show", "nothing.log").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hold",), "choose files, or use --all"),
        (("release", "--all", "--node", "web"), "--all contradicts the choice of some"),
        (("hold", "--node", "-1"), "2 nodes fit: db-1.test, web-12.test"),
        (("list", "--older", "yesterday"), "'--older'"),
    ],
)
def test_mistakes_are_named(site: Site, arguments: tuple[str, ...], message: str) -> None:
    """Nothing is moved by a mistake, which is explained in one line."""
    name = add(site, "web-12", 10)
    result = call(site, *arguments)
    assert result.exit_code != 0
    assert message in str(result.exception) + result.output
    assert site.waiting() == [name]


def test_a_spool_that_another_process_works_on_is_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two operators do not work on it at the same time; the second one waits, and then gives up."""
    name = add(site, "web-12", 10)
    monkeypatch.setattr(asking, "WAIT_S", 0.0)
    with DirectoryLock(site.incoming):
        result = call(site, "hold", "--all")
        assert (result.exit_code, result.output.count("\n")) == (3, 1)
        assert f"process {os.getpid()} works on the spool, but cannot be asked" in result.output
    assert site.waiting() == [name]
    assert call(site, "retry", "--all").output.startswith("Nothing to do: relayd does not run")


def test_a_command_waits_for_the_one_of_another_operator(site: Site) -> None:
    """What the first one began is done before the second one begins."""
    add(site, "web-12", 10)
    lock = DirectoryLock(site.incoming)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(call, site, "hold", "--all")
        assert site.waiting()
        lock.__exit__(None, None, None)
        assert second.result().output.startswith("held 1 file")


def test_terminal_escapes_in_names_are_printed_as_text(site: Site) -> None:
    """The name of a file cannot change what the terminal shows."""
    (site.incoming / "\x1b[31mred.log").touch()
    assert "\x1b" not in call(site, "list").output
    queue = Queue([run_log_spool(site.incoming.parent)], {}, lambda _: "", find_nodes)
    assert queue.files(Choice()).waiting == 1
