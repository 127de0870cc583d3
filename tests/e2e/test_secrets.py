"""Passwords stay where they belong, whatever fails and however much is logged."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.support.canaries import forms, read_archive
from tests.support.daemon import Daemon, eventually, open_daemon
from tests.support.http import BASE
from tests.support.postgres import Database
from tests.support.strace import children
from tests.support.tree import Member, Tree, make_tree, open_fronts

#: Where each is: a password of its own, so that whatever leaks says where it comes from.
DATABASE, IN_URL = "cAnary.database&=%41 x", "cAnaryInUrl"
UPSTREAM, DEFAULT = "cAnary.upstream:/@ x", "cAnary.default?# x"
CANARIES = (DATABASE, IN_URL, UPSTREAM, DEFAULT)

#: Makes relayd believe that its standard output is the journal, whatever it is.
JOURNAL = ("sh", "-c", 'JOURNAL_STREAM=$(stat -Lc %d:%i /dev/stdout) exec "$@"', "sh")

#: An agents' command that keeps its environment and arguments, writes to both outputs and fails.
AGENT = """\
#!/bin/sh
env > '{root}/environment'
cat /proc/$$/cmdline /proc/$PPID/environ > '{root}/family' 2>/dev/null
echo output; echo trouble >&2
exit 3
"""


def leaks(text: str) -> set[str]:
    """Return the passwords that a text shows in any form."""
    return {canary for canary in CANARIES if any(form in text for form in forms(canary))}


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return a root server that its database refuses and a relay that its upstream refuses."""
    tree = make_tree(tmp_path, database.rudder)
    server = database.rudder
    tree.root.database = replace(server, password=DATABASE)
    where = f"{server.host}:{server.port}/{server.database}"
    tree.root.extra["output.database"] = f'url = "postgres://{server.user}:{IN_URL}@{where}"'
    tree.relay.extra["output.upstream"] = f"""
        password = "{UPSTREAM}"
        default_password = "{DEFAULT}"
    """
    for member in (tree.root, tree.relay):
        member.write()
        (member.conf / "logging.conf").write_text('[general]\nlevel = "trace"\n')
        (member.root / "agent").write_text(AGENT.format(root=member.root))
    return tree


async def provoke(member: Member, daemon: Daemon) -> list[str]:
    """Make it answer in all kinds of ways; return what it said."""
    said = [
        *[await daemon.get(path) for path in ("/metrics", "/nowhere", f"{BASE}/system/info")],
        await daemon.get(f"{BASE}/system/status"),
        await daemon.get(f"{BASE}/shared-folder/none"),
        await daemon.post(f"{BASE}/remote-run/nodes/node1?conditions=-x"),
        await daemon.post(f"{BASE}/remote-run/all?keep_output=true"),
        await daemon.post(f"{BASE}/system/reload"),
    ]
    conf = member.conf / "main.conf"
    good = conf.read_text()
    for right, wrong in (("password =", "passwort ="), ('= "cAnary', "= cAnary")):
        conf.write_text(good.replace(right, wrong))
        said.append(await daemon.post(f"{BASE}/system/reload"))
        said.append(await daemon.get(f"{BASE}/system/status"))
    conf.write_text(good)
    return [f"{status} {body.decode()}" for status, body in said]


async def family(daemon: Daemon) -> str:
    """Arguments and environment of relayd's processes."""
    pids = [daemon.process.pid, *children(daemon.process.pid)]
    paths = [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    return "".join(path.read_bytes().decode(errors="replace") for path in paths)


async def check(member: Member) -> str:
    """Return what `relayd check` says about its installation, in both forms."""
    said = ""
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "relayd", "check", *more, "-c", str(member.conf)]
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
        said += done.stdout.decode()
    return said


async def collect(member: Member) -> str:
    """Return all that `relayd support` collects from its running relayd."""
    path = member.root / "support.tar.gz"
    command = [sys.executable, "-m", "relayd", "support", "-o", str(path), "-c", str(member.conf)]
    await trio.run_process(command, capture_stdout=True)
    found = read_archive(path)
    assert {"status.json", "checks.json", "tasks.json", "metrics.txt", "log.txt"} <= found.keys()
    return "\n".join(found.values())


@pytest.mark.fault("D.4.1")
@pytest.mark.history(65)
@pytest.mark.parametrize(
    ("form", "journal"),
    [("text", ()), ("json", JOURNAL)],
    ids=["text to a stream", "json to the journal"],
)
async def test_no_password_shows(tree: Tree, form: str, journal: tuple[str, ...]) -> None:
    """With everything logged and everything failing, no password is anywhere to be seen."""
    env = {"RELAYD_LOG_FORMAT": form}
    said: list[str] = []
    async with (
        open_fronts(tree),
        open_daemon(tree.root, env=env, wrapper=journal) as root,
        open_daemon(tree.relay, env=env, wrapper=journal) as relay,
    ):
        for member in (tree.root, tree.relay):
            member.send("node1", 0)
            member.upload("bob.log", b"no name of a run log")
        new = tree.relay.inventories / "incoming" / "new.ocs"
        new.write_bytes(b"an inventory")
        await root.saw("password authentication failed")
        await relay.saw("output unavailable; files wait")
        await relay.saw("401")
        await eventually(lambda: bool(tree.root.refused()))
        for member, daemon in ((tree.root, root), (tree.relay, relay)):
            said += await provoke(member, daemon)
            said.append(await family(daemon))
            if not journal:  # the commands have no journal
                said += [await check(member), await collect(member)]
            assert await daemon.stop() == 0
    said += ["\n".join(daemon.lines) for daemon in (root, relay)]
    kept = [
        path.read_text(errors="replace")
        for place in (tree.root.root, tree.relay.root)
        for path in place.rglob("*")
        if path.is_file() and path.parent.name != "etc"
    ]
    assert any("DEBUG" in line or '"debug"' in line for line in root.lines)
    assert (tree.relay.root / "environment").exists()
    assert leaks("\n".join(said + kept)) == set()


@pytest.mark.parametrize("canary", CANARIES)
def test_passwords_are_found_in_any_form(canary: str) -> None:
    """The search that the other test relies on finds each form of each password."""
    assert all(canary in leaks(f"x {form} x") for form in forms(canary))
    assert leaks("password=***") == set()
