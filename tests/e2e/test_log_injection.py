"""Hostile text from everywhere: each log line is one line, and shows no more than it should."""

import json
import os
import re
from datetime import datetime
from itertools import cycle
from pathlib import Path
from urllib.parse import quote

import pytest

from relayd.commands.demo.fleet.runlogs import make_runlog
from tests.support.daemon import Daemon, eventually, open_daemon, replace
from tests.support.http import BASE
from tests.support.logs import PAYLOADS
from tests.support.postgres import Database
from tests.support.signing import sign_runlog
from tests.support.tls_server import Behaviour, Exchange, Peer, open_peer
from tests.support.tree import Tree, make_tree

HEAD = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (TRACE|DEBUG|INFO |WARN |ERROR) [a-z_]+: ")
#: In the message of good reports, and behind the 200th character of broken ones.
SECRET = "nobody-should-read-this"
#: Components whose lines name directories as file.
DIRECTORIES = {"cleanup", "watch"}


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return a root server and a relay below it, written."""
    return make_tree(tmp_path, database.rudder)


class Liar(Behaviour):
    """Turns every upload down, each time with another payload in its answer."""

    def __init__(self) -> None:
        self._texts = cycle(PAYLOADS)

    async def serve(self, peer: Peer, exchange: Exchange) -> None:
        """Answers with a payload as reason phrase, header and body."""
        await exchange.digest()
        text = raw(next(self._texts))
        plain = bytes(byte for byte in text if byte not in b"\r\n")
        answer = b"HTTP/1.1 422 %s\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s"
        peer.uploads.append((exchange.target, b""))
        await exchange.stream.send_all(answer % (plain, plain, len(text), text))


def raw(payload: str) -> bytes:
    """Return a payload as bytes; some are no UTF-8."""
    return payload.encode("utf-8", "surrogatepass")


def run_log(start: datetime, payload: str) -> bytes:
    """Return a run log with the secret in its good reports, and a broken report with both texts."""
    text = make_runlog("node1", start, reports=4)
    *_, last = [line for line in text.splitlines(keepends=True) if b"R: @@" in line]
    good = last.rpartition(b"@#")[0] + b"@#" + SECRET.encode() + b"\n"
    broken = b"R: @@" + raw(payload).replace(b"\0", b"") + b"x" * 250 + SECRET.encode() + b"\n"
    return text + good + broken


def judge(daemon: Daemon, form: str) -> None:
    """Every line is whole, printable, and of relayd's own making."""
    assert len(daemon.lines) > 100
    for line in daemon.lines:
        assert line.isprintable(), ascii(line)
        if form == "json":
            assert {"time", "level", "component", "event"} <= json.loads(line).keys()
        elif not line.startswith("    "):
            assert HEAD.match(line), line


def fields(line: str, form: str) -> set[str]:
    """Component and names of the fields of a line."""
    if form == "json":
        document = json.loads(line)
        return {document["component"], *document}
    if line.startswith("    "):
        return set()
    component = line.split(maxsplit=2)[2].partition(":")[0]
    return {component, *re.findall(r" ([a-z_]+)=", line)}


@pytest.mark.fault("D.8.1", "D.8.3", "D.8.4")
@pytest.mark.parametrize(("form", "level"), [("text", "info"), ("json", "trace")])
async def test_hostile_text_from_everywhere(tree: Tree, form: str, level: str) -> None:
    """File names, reports, paths, node ids and answers from above end no line and forge none."""
    root, relay = tree.root, tree.relay
    env = {"RELAYD_LOG_FORMAT": form}
    async with open_peer(tree.nodes["root"]) as above:
        above.behaviour = Liar()
        relay.https_port = above.port
        for member in (root, relay):
            member.write()
            (member.conf / "logging.conf").write_text(f'[general]\nlevel = "{level}"\n')
        known = json.loads(root.nodes_list.read_text())
        for number, payload in enumerate(PAYLOADS):
            entry = {"hostname": payload, "policy-server": "root"}
            known |= {payload + "?": entry, f"n{number}": entry}
        replace(root.nodes_list, json.dumps(known).encode())
        async with open_daemon(root, env=env) as daemon, open_daemon(relay, env=env) as below:
            for number, payload in enumerate(PAYLOADS):
                signed = sign_runlog(run_log(root.start(number), payload), tree.nodes["node1"])
                root.upload(root.name("node1", number), signed)
                odd = b"x" + raw(payload).replace(b"/", b"").replace(b"\0", b"") + b".log"
                for member in (root, relay):
                    (member.incoming / os.fsdecode(odd)).write_bytes(b"no run log")
                path = quote(raw(payload), safe="")
                await daemon.get(f"{BASE}/shared-folder/{path}/x")
                await daemon.get(f"/{path}?hash={path}")
                await daemon.post(f"{BASE}/remote-run/nodes/{path}")
            await daemon.settled()
            await eventually(lambda: len({target for target, _ in above.uploads}) >= 50)
            await below.saw("422")
            for one in (daemon, below):
                assert await one.stop() == 0
    for one in (daemon, below):
        judge(one, form)
        about = [line for line in one.lines if "file" in fields(line, form)]
        about = [line for line in about if fields(line, form).isdisjoint(DIRECTORIES)]
        assert len(about) > 50
        assert [line for line in about if "queue_id" not in fields(line, form)] == []
        if level == "info":
            assert not one.lines_of(SECRET)
