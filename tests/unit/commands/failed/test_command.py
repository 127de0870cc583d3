"""The command `relayd failed` on real refused files."""

import io
import json
import os
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from relayd.commands.demo.postgres.server import ConnectionInfo
from relayd.commands.failed import show
from relayd.commands.failed.command import command
from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine
from relayd.spool.failed.reasons import reason_path
from relayd.spool.failed.refusals import ADVICE, Group
from tests.support.daemon import Site, make_site
from tests.support.signing import make_key_and_cert

NOWHERE = ConnectionInfo("127.0.0.1", 1, "rudder", "rudder", "none")
NODES = ("e3a1b2c4-web", "e3a1ffff-web", "77770000-db")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A root server of three nodes."""
    return make_site(tmp_path, NOWHERE, {node: make_key_and_cert(node) for node in NODES})


def call(site: Site, *arguments: str, answer: str | None = None) -> Result:
    name, *others = arguments
    return CliRunner().invoke(command, [name, "-c", str(site.conf), *others], input=answer)


def refuse(site: Site, name: str, data: bytes, reason: Reason, node: str = "") -> Path:
    """Let relayd's own code refuse a file."""
    site.upload(name, data)
    refused = RefusedFile(name, None, Refused(reason, f"because of {reason}"), node, "")
    moved = quarantine(site.incoming, site.failed, refused)
    assert isinstance(moved, Path)
    return moved


def refuse_good(site: Site, number: int, node: str = NODES[0]) -> str:
    """Refuse a run log that would pass now; return its name."""
    name = site.name(node, number)
    refuse(site, name, site.run_log(node, number), Reason.UNKNOWN_NODE, node)
    return name


def refuse_bad(site: Site, number: int, node: str = NODES[2]) -> str:
    """Refuse a run log that will never pass; return its name."""
    name = site.name(node, number)
    refuse(site, name, b"no message", Reason.MIME, node)
    return name


def test_list_counts_by_reason_and_says_what_to_do(site: Site) -> None:
    """Each reason has its files, its nodes and the next step, the most frequent first."""
    refuse_good(site, 1)
    refuse_good(site, 2)
    refuse_good(site, 3, NODES[1])
    refuse_bad(site, 4)
    (site.failed / "of somebody").write_bytes(b"123")
    result = call(site, "list")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1][:3] == ["unknown_node", "3", "2"]
    assert "accept the node" in result.output
    assert ["mime", "1", "1"] in [line[:3] for line in lines]
    assert lines[-1][:2] == ["5", "files"]
    document = [json.loads(line) for line in call(site, "list", "--json").output.splitlines()]
    assert [(one["reason"], one["files"]) for one in document] == [
        ("unknown_node", 3),
        ("mime", 1),
        ("unexplained", 1),
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_what_to_do_can_be_read_in_a_narrow_terminal(width: int) -> None:
    """Lines end between words: a column of two letters helps nobody."""
    console = Console(width=width, file=io.StringIO(), markup=False)
    with console.capture() as captured:
        show.show_groups(console, [Group("bad_name", 1, 0, 14, 31.0, ADVICE["bad_name"])])
    text = captured.get()
    assert set(ADVICE["bad_name"].split()) <= set(text.replace("bad_name:", "").split())
    assert max(map(len, text.splitlines())) <= width


def test_nothing_refused_is_one_line(site: Site) -> None:
    """An empty or missing directory is no error."""
    assert call(site, "list").output == "No refused files.\n"
    assert call(site, "replay", "--all").output == "No such file was refused.\n"


def test_show_explains_files_and_reasons(site: Site) -> None:
    """A reason or a file, by its name, is shown with all that is known of it."""
    good, bad = refuse_good(site, 1), refuse_bad(site, 2)
    for argument in ("mime", bad, str(site.failed / bad)):
        output = call(site, "show", argument).output
        assert bad in output
        assert "because of mime" in output
        assert good not in output
    assert call(site, "show", "nothing.log").exit_code == 1


def test_replay_moves_back_what_would_pass_now(site: Site) -> None:
    """The rest stays with its reason, and the answer says why; twice is no more than once."""
    good, bad = refuse_good(site, 1), refuse_bad(site, 2)
    trial = call(site, "replay", "--all", "--dry-run")
    assert "1 file would be moved back" in trial.output
    assert site.waiting() == []
    result = call(site, "replay", "--all")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "1 file moved back",
        "1 file would be refused again: 1 mime",
    ]
    assert site.waiting() == [good]
    assert {path.name for path in site.failed.iterdir()} == {bad, f"{bad}.reason"}
    assert call(site, "replay", good).output == "No such file was refused.\n"
    said = call(site, "show", "node-010")
    assert said.output.startswith("No such file was refused.\nFiles of a node: relayd failed show")
    assert said.exit_code == 1


def test_replay_keeps_a_newer_file_of_the_same_name(site: Site) -> None:
    """What waits in the spool is never replaced; the refused one stays with its reason."""
    name = refuse_good(site, 1)
    site.upload(name, b"newer")
    result = call(site, "replay", name)
    assert (result.exit_code, site.incoming.joinpath(name).read_bytes()) == (1, b"newer")
    assert f"{name}: {site.incoming / name} exists" in result.output
    assert {path.name for path in site.failed.iterdir()} == {name, f"{name}.reason"}


def test_replay_of_a_second_refusal_uses_the_name_of_the_upload(site: Site) -> None:
    """A file that got another name in `failed` comes back under its own."""
    name = site.name(NODES[0], 1)
    refuse(site, name, b"no message", Reason.MIME, NODES[0])
    second = refuse(site, name, site.run_log(NODES[0], 1), Reason.UNKNOWN_NODE, NODES[0])
    assert second.name != name
    assert call(site, "replay", "--reason", "unknown_node").exit_code == 0
    assert site.waiting() == [name]


def test_time_of_an_expired_file_begins_again(site: Site) -> None:
    """It would be refused at once if it were still as old as before."""
    name = site.name(NODES[0], 1)
    moved = refuse(site, name, site.run_log(NODES[0], 1), Reason.EXPIRED, NODES[0])
    os.utime(moved, (1, 1))
    assert call(site, "replay", "--reason", "expired").exit_code == 0
    assert time.time() - (site.incoming / name).stat().st_mtime < 600


def test_relay_moves_run_logs_back_unread(site: Site) -> None:
    """What a relay only forwards is for the policy server to judge."""
    bad = refuse_bad(site, 1)
    site.extra["processing.reporting"] = 'output = "upstream"'
    site.extra["output.upstream"] = 'host = "root.test"\nuser = "rudder"\npassword = "x"'
    site.extra["general"] = 'node_id = "relay"'
    site.write_conf()
    result = call(site, "replay", "--all")
    assert (result.exit_code, site.waiting()) == (0, [bad]), result.output


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (NODES[0], {NODES[0]}),
        ("77770000", {NODES[2]}),
        (f"{NODES[2]}.test", {NODES[2]}),
        ("-db.te", {NODES[2]}),
    ],
)
def test_node_is_found_by_a_unique_part(site: Site, node: str, found: set[str]) -> None:
    """Its id, its host name, or a part of either that no other node has."""
    for number, each in enumerate(NODES):
        refuse_good(site, number, each)
    lines = call(site, "show", "--node", node, "--json").output.splitlines()
    assert {json.loads(line)["node"] for line in lines} == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--node", "e3a1"), "2 nodes fit: e3a1b2c4-web.test, e3a1ffff-web.test"),
        (("list", "--node", "x"), "no node has this in its id or host name"),
        (("list", "--since", "yesterday"), "'--since'"),
        (("list", "--reason", "mine"), "'--reason'"),
        (("replay",), "choose files, or use --all"),
        (("drop", "--all", "--reason", "mime"), "--all contradicts the choice of some"),
        (("drop", "--all"), "no terminal to ask at; use --yes"),
    ],
)
def test_mistakes_are_named(site: Site, arguments: tuple[str, ...], message: str) -> None:
    """Nothing is moved or removed by a mistake, which is explained in one line."""
    refuse_bad(site, 1)
    result = call(site, *arguments)
    assert result.exit_code != 0
    assert message in str(result.exception) + result.output
    assert len(list(site.failed.iterdir())) == 2


def test_drop_removes_files_and_their_reasons(site: Site) -> None:
    """Only the chosen ones go; a trial removes nothing."""
    good, bad = refuse_good(site, 1), refuse_bad(site, 2)
    trial = ("drop", "--reason", "mime", "--dry-run")
    assert call(site, *trial).output == "1 file (10 bytes) would be removed.\n"
    assert json.loads(call(site, *trial, "--json").output)["outcome"] == "removed"
    assert (site.failed / bad).exists()
    assert (site.failed / bad).exists()
    result = call(site, "drop", "--reason", "mime", "--yes")
    assert (result.exit_code, result.output) == (0, "1 file removed\n")
    assert {path.name for path in site.failed.iterdir()} == {good, f"{good}.reason"}


def test_since_counts_from_the_refusal(site: Site) -> None:
    """Files that were refused before that are not meant."""
    old, new = refuse_bad(site, 1), refuse_bad(site, 2)
    path = reason_path(site.failed / old)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"time": "2026-01-01T00:00:00+00:00"}))
    for since in ("1h", "3600"):
        lines = call(site, "show", "--since", since, "--json").output.splitlines()
        assert [json.loads(line)["name"] for line in lines] == [new]


def test_two_operators_at_once_lose_nothing(site: Site) -> None:
    """Each file is moved back once, whole, and no reason is left without its file."""
    names = {refuse_good(site, number) for number in range(60)}
    content = {name: (site.failed / name).read_bytes() for name in names}
    results: list[Result] = []

    def replay(*which: str) -> None:
        results.append(call(site, "replay", *which))

    threads = [
        threading.Thread(target=replay, args=which) for which in (["--all"], ["--node", NODES[0]])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.exception for result in results] == [None, None]
    assert {name: (site.incoming / name).read_bytes() for name in site.waiting()} == content
    assert list(site.failed.iterdir()) == []


def test_hostile_reason_cannot_move_a_file_elsewhere(site: Site) -> None:
    """A reason that names a path is none; what is printed cannot control the terminal."""
    path = site.failed / "x.log"
    refuse(site, "x.log", b"no message", Reason.BAD_NAME)
    reason = json.loads(reason_path(path).read_text())
    reason |= {"name": "../../outside.log", "detail": "\x1b[2J"}
    reason_path(path).write_text(json.dumps(reason))
    output = call(site, "show", "x.log").output
    assert "unexplained" in output
    reason["name"] = "x.log"
    reason_path(path).write_text(json.dumps(reason))
    assert "\x1b" not in call(site, "show", "x.log").output
