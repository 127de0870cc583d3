"""relayd and its root helper under the restrictions of their units.

The restrictions are read from the unit files and put in force by `tests.support.confined`; a
system call that the units forbid kills the process that makes it, so nothing forbidden is needed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
import trio

from tests.support.confined import CAP_SYS_ADMIN, confined, may
from tests.support.daemon import Daemon, Site, eventually, make_site, open_daemon
from tests.support.front import dial_front, put
from tests.support.helper_socket import HelperSocket, open_helper_socket
from tests.support.http import BASE, Answer, Client
from tests.support.ledger import Ledger, fleet
from tests.support.postgres import Database
from tests.support.project import UNITS
from tests.support.service_manager import open_service_manager
from tests.support.shared import sha512, upload
from tests.support.strace import children
from tests.support.tree import Member, Tree, make_tree, open_tree

SERVICE: Final = UNITS / "rudder-relayd.service"
HELPER: Final = UNITS / "rudder-relayd-helper@.service"
READ_ONLY: Final = pytest.mark.skipif(
    not may(CAP_SYS_ADMIN), reason="needs CAP_SYS_ADMIN to make a file system read-only"
)
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def service(site: Site) -> tuple[str, ...]:
    """Return what runs relayd confined; it may write where the unit's may."""
    return confined(SERVICE, *(site.root / name for name in writable(site)))


def writable(site: Site) -> list[str]:
    names = ["reports", "inventories", "shared-files"]
    for name in names:
        (site.root / name).mkdir(exist_ok=True)
    return names


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import mmap; mmap.mmap(-1, 4096, prot=7)", -signal.SIGSYS),
        ("import os; os.chown('/tmp', 0, 0)", -signal.SIGSYS),
        ("import os; os.setuid(0)", -signal.SIGSYS),
        ("import os; os.sched_setaffinity(0, {0})", -signal.SIGSYS),
        ("import os; os.nice(1)", -signal.SIGSYS),
        ("import os; os.chmod('/nowhere', 0o4755)", -signal.SIGSYS),
        ("import ctypes; ctypes.CDLL(None).ptrace(0)", -signal.SIGSYS),
        ("import ctypes; ctypes.CDLL(None).unshare(0x10000000)", -signal.SIGSYS),
        ("import ctypes; ctypes.CDLL(None).mount(0, 0, 0, 0, 0)", -signal.SIGSYS),
        ("import ctypes; ctypes.CDLL(None).personality(8)", -signal.SIGSYS),
        ("import socket; socket.socket(socket.AF_NETLINK)", 1),
        ("import socket; socket.socket(socket.AF_PACKET)", 1),
        pytest.param("open('/tmp/relayd-x', 'w')", 1, marks=READ_ONLY),
        ("import socket; socket.getaddrinfo('localhost', 80)", 0),
        ("import os; assert 'CapEff:\\t' + 16 * '0' in open('/proc/self/status').read()", 0),
        ("import os; assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()", 0),
    ],
)
def test_the_wrapper_confines(program: str, expected: int) -> None:
    """What the unit forbids is forbidden here: else the other tests would prove nothing."""
    command = [*confined(SERVICE), sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == expected, done.stderr.decode()[-300:]


@pytest.mark.fault("D.6.2")
async def test_load_of_all_kinds(tmp_path: Path, database: Database) -> None:
    """A confined root server stores and refuses what it should, reloads and stops."""
    site = make_site(tmp_path, database.rudder, fleet())
    ledger = Ledger(site, 11)
    wrapper = ("sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh", *service(site))
    with open_service_manager(site.root / "notify") as manager:
        async with open_daemon(site, wrapper=wrapper, env=manager.environment(1.0)) as daemon:
            workers = children(daemon.process.pid)
            for pid in (daemon.process.pid, *workers):
                assert "Seccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
            await manager.hears("READY", "1")
            for _ in range(150):
                ledger.send_any()
            ledger.send(reports=5000)
            daemon.process.send_signal(signal.SIGHUP)
            await daemon.saw("main: reloaded")
            await manager.hears("WATCHDOG", "1")
            assert (await daemon.post(f"{BASE}/system/reload"))[0] == 200
            _, status = await daemon.get(f"{BASE}/system/status")
            assert json.loads(status)["data"]["database"]["status"] == "success"
            assert await daemon.metric("process_start_time_seconds") > 1_600_000_000
            await daemon.settled()
            # None of them was killed for a system call and replaced.
            assert children(daemon.process.pid) == workers
            assert await daemon.stop() == 0
    await ledger.balance(database)


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return a root server and two relays, all of which have their agents started by a helper."""
    tree = make_tree(tmp_path, database.rudder)
    for member in tree.members:
        member.extra["remote_run"] = f'helper = "{member.root / "helper.sock"}"'
        folder = member.root / "folder"
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "b").write_text("for all")
        member.extra["shared_folder"] = f'path = "{folder}"'
        member.write()
    return tree


@asynccontextmanager
async def open_confined(tree: Tree) -> AsyncIterator[dict[str, Daemon]]:
    """All three relayd and the helpers' sockets."""
    async with AsyncExitStack() as stack:
        for member in tree.members:
            await stack.enter_async_context(helper_of(member))
        yield await stack.enter_async_context(open_tree(tree, service))


@asynccontextmanager
async def helper_of(member: Member) -> AsyncIterator[HelperSocket]:
    """Yield a member's helpers; its directory stands for that of the agent."""
    nodes = json.loads(member.nodes_list.read_text())
    hosts = [node["hostname"] for node in nodes.values()]
    wrapper = confined(HELPER, member.root)
    agent = member.root / "agent"
    async with open_helper_socket(member.root, agent, hosts, wrapper=wrapper) as helper:
        yield helper


@pytest.mark.fault("D.6.2")
async def test_forwarding_shared_files_and_remote_run(tree: Tree, database: Database) -> None:
    """Confined, a tree of relays forwards, shares files and runs agents through the helper."""
    async with open_confined(tree) as daemons:
        for number in range(5):
            for node in ("node0", "node1", "node2"):
                member = tree.home(node)
                name, data = member.name(node, number), member.run_log(node, number)
                url = f"/reports/{quote(name)}"
                assert await put(member.front(), url, data, member.password) == 201
        await put_inventory(tree)
        await share_a_file(tree)
        assert await run_all(tree) == sorted(
            f"{host}: {what}"
            for host, by in (
                ("127.0.0.1", "root"),
                ("127.0.0.2", "root"),
                ("node0.test", "root"),
                ("127.0.0.3", "relay"),
                ("node1.test", "relay"),
                ("node2.test", "sub"),
            )
            for what in (f"begins, started by {by}", "ends")
        )
        await eventually(lambda: not tree.waiting(), lambda: str(tree.waiting()))
        for me, daemon in daemons.items():
            assert await daemon.stop() == 0, me
    counts = await database.fetch("SELECT nodeid, count(*) FROM reportsexecution GROUP BY 1")
    assert sorted((node, int(count)) for node, count in counts) == [
        ("node0", 5),
        ("node1", 5),
        ("node2", 5),
    ]
    assert tree.refused() == {}


async def put_inventory(tree: Tree) -> None:
    """Return an inventory climbs with its signature from the lowest relay to the top."""
    files = {"node2.ocs.gz": os.urandom(300_000), "node2.ocs.gz.sign": b"signature"}
    for name, data in files.items():
        url = f"/inventory-updates/{name}"
        assert await put(tree.sub.front(), url, data, tree.sub.password) == 201
    for name, data in files.items():
        arrived = tree.root.inventories / "accepted-nodes-updates" / name
        await eventually(arrived.exists)
        assert arrived.read_bytes() == data


async def share_a_file(tree: Tree) -> None:
    """Return a file for all is read; another goes up two levels and is stored there."""
    content = os.urandom(200_000)
    assert await folder_of(tree.root, "a/b") == b"for all"
    data = upload(content, tree.nodes["node2"])
    path = "/rudder/relay-api/shared-files/node0/node2/file"

    async def ask(method: str, query: str, body: bytes = b"") -> Answer:
        async with dial_front(tree.sub.front()) as client:
            return await client.ask(method, f"{path}?{query}", body)

    assert (await ask("PUT", "ttl=1%20day", data)).status == 200
    assert (await ask("HEAD", f"hash={sha512(content)}")).status == 200
    stored = tree.root.shared_files / "node0" / "files" / "node2" / "file"
    assert stored.read_bytes() == content


async def folder_of(member: Member, path: str) -> bytes:
    """Return a file of the shared folder."""
    async with await trio.open_tcp_stream("127.0.0.1", member.port) as stream:
        answer = await Client(stream).ask("GET", f"{BASE}/shared-folder/{path}")
    assert answer.status == 200
    return answer.body


async def run_all(tree: Tree) -> list[str]:
    """Return what a remote run on all nodes prints."""
    form = b"asynchronous=false&keep_output=true&conditions=one"
    headers = "Content-Type: application/x-www-form-urlencoded\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", tree.root.port) as stream:
        answer = await Client(stream).ask("POST", f"{BASE}/remote-run/all", form, headers)
    assert answer.status == 200
    return sorted(answer.body.decode().splitlines())
