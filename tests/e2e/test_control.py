"""The control socket of a running relayd: who may use it, and what it leaves in the log."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from relayd.control.app import read_document
from relayd.control.client import Control, ControlError, NotRunningError
from relayd.errors import Reason, Refused
from relayd.spool.failed.quarantine import RefusedFile, quarantine
from relayd.telemetry.nodes.saved import NAME
from tests.support.daemon import Site, eventually, open_daemon
from tests.support.postgres import Database
from tests.support.stored import stored_executions
from tests.support.tree import Tree, make_tree, open_fronts

#: A user and a group that no machine has.
STRANGER, MEMBERS = 61_234, 61_235

ASK = """
import os, sys
from pathlib import Path
from relayd.control.app import read_document
from relayd.control.client import Control
path, user, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(int(user))
os.setuid(int(user))
control = Control(Path(path))
print(control.get("/checks")["configuration"]["status"], control.get("/nodes")["total"])
"""


def _ask_as(path: Path, user: int, *groups: int) -> subprocess.CompletedProcess[str]:
    """Ask for checks and nodes in a process that has become another user."""
    command = [sys.executable, "-c", ASK, str(path), *map(str, (user, *groups))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.site(nodes=[], database=False)
async def test_root_service_user_and_group_may_and_others_may_not(site: Site, place: Path) -> None:
    """The kernel says who calls: the rights of the file are not all that keeps others out."""
    path = place / "control.sock"
    site.extra["general"] = f'control_socket = "{path}"'
    site.write_conf()
    async with open_daemon(site) as daemon:
        assert path.stat().st_mode & 0o777 == 0o660
        assert Control(path).get("/checks")["configuration"] == {"status": "success"}
        os.chown(path, -1, MEMBERS)
        assert _ask_as(path, STRANGER, MEMBERS).stdout == "success 1\n"
        assert "NotPermittedError" in _ask_as(path, STRANGER).stderr
        path.chmod(0o666)  # an operator's mistake; the answer of the kernel still decides
        assert "NotPermittedError" in _ask_as(path, STRANGER, MEMBERS + 1).stderr
        await daemon.saw(f"caller turned away uid={STRANGER}")


#: Becomes a user, then runs commands in this process; prints exit code, output and errors of each.
COMMANDS = """
import _strptime, bz2, encodings, gzip, io, json, lzma, os, pkgutil, sys
from contextlib import redirect_stderr, redirect_stdout
import relayd.commands
from relayd.commands import cli
# This user may not be able to read any of it.
for name in ("ascii", "idna", "latin_1", "utf_8_sig", "utf_16"):
    __import__(f"encodings.{name}")
for module in pkgutil.walk_packages(relayd.commands.__path__, "relayd.commands."):
    if ".demo" not in module.name:
        __import__(module.name)
asked = json.loads(sys.argv[1])
os.chdir(asked["home"])
os.setgroups(asked["groups"])
os.setgid(asked["user"])
os.setuid(asked["user"])
os.environ |= {"HOME": asked["home"], "RELAYD_CONTROL_SOCKET": asked["socket"]}
results = []
for words in asked["commands"]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([*words, "-c", asked["conf"]])
        except SystemExit as end:
            code = end.code
    results.append((code, out.getvalue(), err.getvalue()))
json.dump(results, sys.stdout)
"""
#: Every command of an operator, with what a member of the group gets while relayd runs.
MEMBER_GETS = {
    "status": "Keeping up: ",
    "status --json": '"state":"keeping_up"',
    "nodes": "node1.test",
    "node node1": "node1.test   node1\n",
    "queue hold --node node1": "held no file of node1.test; take this back with:",
    "queue list": "What node1.test sends is on hold since",
    "queue shape": "No file waits.",
    "queue retry --all": "",
    "queue release --all": "",
    "pause --for 1h": "Paused run logs until ",
    "resume": "Taking run logs again.",
    "failed list": "mime",
    "failed list --reason mime": "mime",
    "failed show": "no message",
    "failed replay --all --dry-run": "2 files would be moved back",
    "failed drop --reason mime --yes": "1 file removed",
    "run node1": "1 of 1 ok",
}


def _commands_as(
    home: Path, conf: Path, socket: Path, commands: Iterable[str], *groups: int
) -> dict[str, tuple[int, str, str]]:
    """Run commands as a stranger with some groups; return exit code, output and errors of each."""
    asked = {
        "home": str(home),
        "conf": str(conf),
        "socket": str(socket),
        "user": STRANGER,
        "groups": groups,
        "commands": [words.split() for words in commands],
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, map(tuple, json.loads(done.stdout)), strict=True))


def _one_line(result: tuple[int, str, str], *parts: str) -> None:
    """Assert that a command failed, with one line for a person."""
    code, out, err = result
    assert (code, out) == (3, ""), result
    assert err.startswith("error: ")
    assert (err.count("\n"), err[-1]) == (1, "\n"), err
    for part in parts:
        assert part in err


@pytest.mark.site(nodes=["node1"])
async def test_members_of_the_group_need_no_configuration(
    site: Site, database: Database, place: Path
) -> None:
    """They use every command; others get one line that names the group, and never a traceback."""
    del database
    path, home, readable = place / "control.sock", place / "home", place / "etc"
    home.mkdir()
    os.chown(home, STRANGER, STRANGER)
    (site.root / "rudder").write_text("#!/bin/sh\nexit 0\n")
    (site.root / "rudder").chmod(0o755)
    site.extra["remote_run"] = f'command = "{site.root}/rudder"\nuse_sudo = false'
    site.extra["general"] = f'control_socket = "{path}"'
    site.write_conf()
    site.root.chmod(0o700)
    site.failed.mkdir(parents=True, exist_ok=True)
    shutil.copytree(site.conf, readable)  # whose files lie where only root may look
    for file in (readable, *readable.iterdir()):
        file.chmod(0o755)
    archive = f"support -o {home}/x.tar.gz"
    for number, name in enumerate([site.name("node1"), os.fsdecode(b"\xff.log")]):
        refused = Refused([Reason.MIME, Reason.BAD_NAME][number], "no message")
        site.upload(name, b"x")
        quarantine(site.incoming, site.failed, RefusedFile(name, None, refused, "node1", ""))
    listing = [("failed", "list", "--json"), ("failed", "show", "--json")]
    alone = [_without_ages(_relayd(site, *words)[1]) for words in listing]
    assert [len(lines) for lines in alone] == [2, 2]
    async with open_daemon(site) as daemon:
        await daemon.idle()
        os.chown(path, -1, MEMBERS)
        assert [_without_ages(_relayd(site, *words)[1]) for words in listing] == alone
        outside = _commands_as(home, site.conf, path, [*MEMBER_GETS, "top", archive])
        listed = outside.pop(archive)
        assert f"without status.json: {path}: only root, the user of relayd" in listed[1]
        _one_line(outside.pop("top"), "needs a terminal")
        _one_line(outside.pop("run node1"), f"members of group {MEMBERS} may use it")
        needed = f"without it, main.conf is needed: {site.conf}/main.conf may not be read"
        for result in outside.values():
            _one_line(result, f"members of group {MEMBERS} may use it; {needed}")
        for result in _commands_as(home, readable, path, MEMBER_GETS).values():
            _one_line(result, f"members of group {MEMBERS} may use it")
        (home / "x.tar.gz").unlink()
        inside = _commands_as(home, site.conf, path, [*MEMBER_GETS, archive], MEMBERS)
        assert "without status.json" not in inside.pop(archive)[1]
        for words, (code, out, err) in inside.items():
            assert code == 0, (words, out, err)
            assert MEMBER_GETS[words] in out, (words, out)
            assert ("may not be read by this user" in err) == ("replay" in words), err
        assert await daemon.stop() == 0
    down = _commands_as(home, site.conf, path, [*MEMBER_GETS, "top"], MEMBERS)
    _one_line(down.pop("top"), "needs a terminal")
    _one_line(down.pop("run node1"), "start relayd first")
    for result in down.values():
        _one_line(result, f"relayd does not listen on {path}; {needed}")
    for words, result in _commands_as(home, readable, path, MEMBER_GETS).items():
        _one_line(result, *([] if words == "run node1" else ["Permission denied"]))


def _without_ages(text: str) -> list[dict[str, Any]]:
    """Return the documents of a listing, without what is different a second later."""
    documents = [json.loads(line) for line in text.splitlines()]
    return [
        {name: value for name, value in one.items() if name != "oldest_seconds"}
        for one in documents
    ]


@pytest.mark.site(nodes=[], database=False)
async def test_changes_are_audited_and_errors_are_answers(site: Site) -> None:
    """A reload leaves one line with who, what and how many; a failed one answers with the cause."""
    assert site.control is not None
    control = Control(site.control)
    (site.root / NAME).write_bytes(b"no records of nodes")
    async with open_daemon(site) as daemon:
        await daemon.saw("node records cannot be read")  # which costs only this history
        control.post("/reload")
        line = await daemon.saw("operation")
        assert "action=reload" in line
        assert f"uid={os.getuid()}" in line
        (site.conf / "main.conf").write_text("[general]\nhttps_port = 0\n")
        with pytest.raises(ControlError, match="https_port"):
            control.post("/reload")
        assert await daemon.stop() == 0
        await daemon.ended.wait()
        assert len(daemon.lines_of(" operation ")) == 1
    with pytest.raises(NotRunningError):
        control.get("/checks")
    assert not site.control.exists()


@pytest.mark.site(nodes=[], database=False)
async def test_nothing_of_it_is_reachable_over_tcp(site: Site) -> None:
    """What changes something does not exist on the address of the API; the page only shows."""
    assert site.control is not None
    async with open_daemon(site) as daemon:
        document = json.loads(read_document())
        changing = [path for path, item in document["paths"].items() if "post" in item]
        assert len(changing) > 5
        for path in changing:
            status, _body = await daemon.post(path)
            assert status == 404, path
        for path in ("/status", "/checks", "/tasks", "/run"):
            status, _body = await daemon.get(path)
            assert status == 404, path


def _relayd(site: Site, *words: str) -> tuple[int, str]:
    """Run a command of relayd; return exit code and what it prints."""
    command = [sys.executable, "-m", "relayd", *words, "-c", str(site.conf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


async def _screen(site: Site, *words: str) -> tuple[int, str]:
    """Run a command beside servers of this process."""
    return await trio.to_thread.run_sync(partial(_relayd, site, *words))


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return the three members, written."""
    return make_tree(tmp_path, database.rudder)


async def test_a_node_is_followed_through_the_relays(tree: Tree) -> None:
    """Each relay says what it has done for a node, or that it is gone; nothing is audited."""
    follow = ("node", "node2", "--follow-relays")
    async with open_fronts(tree), AsyncExitStack() as stack:
        daemons = {}
        for member in tree.members:
            daemons[member.me] = await stack.enter_async_context(open_daemon(member))
        tree.sub.send("node2", 1)
        await eventually(lambda: not tree.waiting(), lambda: str(tree.waiting()))
        for daemon in daemons.values():
            await daemon.idle()
        code, text = await _screen(tree.root, *follow)
        assert code == 0
        lines = text.splitlines()
        assert lines[0] == "node2.test   node2"
        assert re.fullmatch(r"way           \S+ ← \S+ ← \S+ ← node2\.test", lines[1])
        for line, host in zip(lines[-2:], ("127.0.0.2", "127.0.0.3"), strict=True):
            assert re.match(rf"{host} +forwarded \S+, [0-9.]+ s after it arrived there$", line), (
                text
            )
        assert re.search(r"^in database +last run started ", text, re.MULTILINE), text
        document = json.loads((await _screen(tree.root, *follow, "--json"))[1])
        assert [hop["relay"] for hop in document["hops"]] == ["relay", "sub"]
        assert {hop["outcome"] for hop in document["hops"]} == {"forwarded"}
        assert document["database"] is not None
        assert await daemons["sub"].stop() == 0
        lines = (await _screen(tree.root, *follow))[1].splitlines()
        assert re.match(r"127\.0\.0\.2 +forwarded ", lines[-2])
        assert re.match(r"127\.0\.0\.3 +\N{EN DASH} \(it answered with status 503\)", lines[-1])
        for name in ("root", "relay"):
            assert not daemons[name].lines_of(" operation ")
            assert not daemons[name].lines_of("remote run")
        assert await daemons["root"].stop() == 0
        await daemons["root"].ended.wait()
    text = (await _screen(tree.root, *follow))[1]
    assert re.search(r"^last run log +started .*, stored ", text, re.MULTILINE), text
    assert "in database   \N{EN DASH} (relayd does not run)" in text
    assert "relays        \N{EN DASH} (only a running relayd can ask them)" in text


@pytest.mark.site(nodes=["node1"])
async def test_pause_holds_files_back_over_a_restart(site: Site, database: Database) -> None:
    """A pause is made without relayd, holds with it, and ends on request; nothing is lost."""
    (site.root / "state").mkdir()
    site.extra["general"] = f'state_directory = "{site.root / "state"}"'
    site.write_conf()
    code, text = _relayd(site, "status")
    assert (code, "relayd does not run here." in text) == (3, True)
    assert _relayd(site, "pause", "reporting")[1].startswith("Paused run logs; ")
    refused = 'inventories are not processed here: processing.inventory.output is "disabled"'
    async with open_daemon(site) as daemon:
        names = [site.send("node1", number) for number in range(3)]
        await eventually(lambda: _waiting_files(site) == 3)
        code, text = _relayd(site, "status")
        assert (code, ": 3 run logs wait." in text) == (0, True), text
        assert site.waiting() == names
        for kinds in (["inventories"], ["reporting", "inventories"]):
            with pytest.raises(ControlError, match=refused):
                Control(site.control).post("/pause", {"kinds": kinds})
        both = _relayd(site, "pause", "--for", "1h")[1]
        assert both.startswith("Paused run logs until ")
        assert "; uploads go on, and inventories are not processed here. " in both
        assert both.endswith(" End this with: relayd resume\n")
        assert stored_executions(database.query) == {}
        assert _relayd(site, "resume")[1] == "Taking run logs again.\n"
        await daemon.settled()
        assert stored_executions(database.query) == {("node1", number): 1 for number in range(3)}
        document = json.loads(_relayd(site, "status", "--json")[1])
        assert (document["state"], document["pause"]) == ("keeping_up", None)
        assert document["started"].endswith("+00:00")


def _waiting_files(site: Site) -> int:
    files: int = Control(site.control).get("/status")["backlog"]["files"]
    return files
