"""A real relayd process on a real configuration, spool and database."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from relayd.commands.demo.fleet.runlogs import make_runlog
from relayd.commands.demo.postgres.server import ConnectionInfo
from tests.support import metrics
from tests.support.ports import free_port
from tests.support.signing import SigningNode, sign_runlog

PATIENCE_S: Final = 60.0
#: For a relayd without a database.
NOWHERE: Final = ConnectionInfo("127.0.0.1", 1, "rudder", "x", "rudder")
START: Final = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@dataclass
class Site:
    """A root server's files: configuration, nodes, spool.

    Attributes:
        root: everything lies below it.
        port: of the HTTP API on 127.0.0.1.
        nodes: the fleet by node id.
        extra: TOML lines appended to a table of `main.conf`, by table name.
    """

    root: Path
    port: int
    database: ConnectionInfo
    nodes: dict[str, SigningNode] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """The configuration directory."""
        return self.root / "etc"

    @property
    def incoming(self) -> Path:
        """Where agents' run logs arrive."""
        return self.root / "reports" / "incoming"

    @property
    def control(self) -> Path | None:
        """Its control socket; None if its path would be too long for one."""
        path = self.root / "control.sock"
        return path if len(str(path)) <= 107 else None

    @property
    def failed(self) -> Path:
        """Where refused ones go."""
        return self.root / "reports" / "failed"

    @property
    def held(self) -> Path:
        """Where committed ones are kept, if they are."""
        return self.root / "reports" / "held"

    @property
    def nodes_list(self) -> Path:
        """The nodes list file."""
        return self.root / "nodeslist.json"

    @property
    def certificates(self) -> Path:
        """The certificates file."""
        return self.root / "allnodescerts.pem"

    def write(self) -> None:
        """Write everything that relayd reads at its start."""
        self.conf.mkdir(parents=True, exist_ok=True)
        self.write_nodes(self.nodes)
        (self.conf / "logging.conf").write_text('[general]\nlevel = "debug"\n')
        self.write_conf()

    def write_nodes(self, nodes: Iterable[str]) -> None:
        """Write nodes list and certificates with these nodes only."""
        known = {
            node_id: {"hostname": f"{node_id}.test", "policy-server": "root"} for node_id in nodes
        }
        known["root"] = {"hostname": "root.test", "policy-server": "root"}
        replace(self.nodes_list, json.dumps(known).encode())
        pems = [self.nodes[node_id].cert_pem for node_id in nodes]
        replace(self.certificates, b"".join(pems))

    def write_conf(self) -> None:
        """Write `main.conf`."""
        tables = self.tables()
        for table, lines in self.extra.items():
            tables[table] = merge(tables.get(table, ""), lines)
        text = "".join(f"[{table}]\n{trim(lines)}\n" for table, lines in tables.items())
        path = self.conf / "main.conf"
        path.write_text(text)
        path.chmod(0o640)

    def tables(self) -> dict[str, str]:
        """Return what `main.conf` says by itself: lines by table."""
        return {
            "general": f"""
                node_id = "root"
                nodes_list_file = "{self.nodes_list}"
                nodes_certs_file = "{self.certificates}"
                listen = "127.0.0.1:{self.port}"
                state_directory = "{self.root}"
                control_socket = "{self.control or ""}"
                core_threads = 2
            """,
            "processing.reporting": f"""
                directory = "{self.root / "reports"}"
                output = "database"
                settle_time = "1s"
            """,
            "processing.reporting.catchup": 'frequency = "1s"',
            "output.database": f"""
                url = "postgres://{self.database.user}@{self.database.host}:{self.database.port}/{self.database.database}"
                password = "{self.database.password}"
            """,
        }

    def start(self, number: int = 0) -> datetime:
        """START of a run log, a minute apart by number."""
        return START + timedelta(minutes=number)

    def name(self, node_id: str, number: int = 0) -> str:
        """File name of a node's run log, a minute apart by number."""
        return f"{self.start(number).isoformat()}@{node_id}.log"

    def text(self, node_id: str, number: int = 0, reports: int = 6, **more: Any) -> bytes:
        """Return the run log of a node, not signed."""
        return make_runlog(node_id, self.start(number), reports=reports, **more)

    def run_log(self, node_id: str, number: int = 0, reports: int = 6, **more: Any) -> bytes:
        """Return a signed run log of a node; numbers are minutes of its start date."""
        return sign_runlog(self.text(node_id, number, reports, **more), self.nodes[node_id])

    def upload(self, name: str, data: bytes) -> Path:
        """Upload as Apache's mod_dav does: under a temporary name, then renamed."""
        target = self.incoming / name
        replace(target, data, prefix=".davfs.tmp")
        return target

    def send(self, node_id: str, number: int = 0, **more: Any) -> str:
        """Upload a good run log; return its file name."""
        name = self.name(node_id, number)
        self.upload(name, self.run_log(node_id, number, **more))
        return name

    def waiting(self) -> list[str]:
        """Names in `incoming`, temporary ones too."""
        try:
            return sorted(path.name for path in self.incoming.iterdir())
        except FileNotFoundError:
            return []

    def refused(self) -> dict[str, str]:
        """File name → reason, of what lies in `failed`."""
        reasons = {}
        for path in self.failed.iterdir() if self.failed.exists() else ():
            # relayd may take a file back at this very moment.
            with suppress(FileNotFoundError):
                if path.name.endswith(".reason"):
                    record = json.loads(path.read_text())
                    reasons[record["name"]] = record["reason"]
        return reasons


def replace(target: Path, data: bytes, prefix: str = ".new") -> None:
    """Write a file next to `target` and rename it over `target`."""
    temporary = target.parent / f"{prefix}{os.urandom(4).hex()}"
    temporary.write_bytes(data)
    temporary.rename(target)


def trim(lines: str) -> str:
    """TOML lines without their indentation."""
    return "\n".join(line.strip() for line in lines.strip().splitlines())


def merge(lines: str, more: str) -> str:
    """Lines of one table; a key of `more` replaces the one of `lines`."""
    keys = {line.split("=")[0].strip() for line in trim(more).splitlines()}
    kept = [line for line in trim(lines).splitlines() if line.split("=")[0].strip() not in keys]
    return "\n".join([*kept, more])


class Daemon:
    """A running relayd process."""

    def __init__(self, site: Site, process: trio.Process) -> None:
        self.site = site
        self.process = process
        self.lines: list[str] = []
        self._news = trio.Event()
        self.ended = trio.Event()

    async def run_reader(self) -> None:
        """Collect what it logs."""
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in lines]
            self._news.set()
            self._news = trio.Event()
        self.ended.set()
        self._news.set()

    async def saw(self, pattern: str, *, since: int = 0) -> str:
        """Wait for a log line that matches; return it."""
        seen = since
        with trio.fail_after(PATIENCE_S):
            while True:
                news = self._news
                while seen < len(self.lines):
                    if re.search(pattern, self.lines[seen]):
                        return self.lines[seen]
                    seen += 1
                assert not self.ended.is_set(), "relayd ended:\n" + "\n".join(self.lines[-20:])
                await news.wait()

    def lines_of(self, text: str) -> list[str]:
        """Return the lines logged so far that hold a text."""
        return [line for line in self.lines if text in line]

    async def answers(self) -> None:
        """Wait until its API answers, where its log is not read."""
        with trio.fail_after(PATIENCE_S):
            while True:
                with suppress(OSError):
                    await self.get("/metrics")
                    return
                await trio.sleep(0.02)

    async def get(self, path: str) -> tuple[int, bytes]:
        """GET on its API: status and body."""
        return await self._request(path, None)

    async def post(self, path: str) -> tuple[int, bytes]:
        """POST on its API: status and body."""
        return await self._request(path, b"")

    async def _request(self, path: str, data: bytes | None) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.site.port}{path}"
        return await trio.to_thread.run_sync(partial(fetch, url, data))

    async def metric(self, name: str, **labels: str) -> float:
        """One value of its metrics."""
        _, body = await self.get("/metrics")
        return metrics.value(body, name, **labels)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signals it and waits for its end; returns the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()

    async def settled(self) -> None:
        """Wait until nothing is left in `incoming`, and every file is counted."""
        await self.emptied()
        await self.idle()

    async def emptied(self) -> None:
        """Wait until nothing is left in `incoming`, without a request that relayd would see."""
        await eventually(lambda: not self.site.waiting(), lambda: str(self.site.waiting()[:5]))

    async def idle(self) -> None:
        """Wait until no file is in flight: one that has left the spool is not counted yet."""
        with trio.fail_after(PATIENCE_S):
            while await self.metric("rudder_relayd_in_flight"):
                await trio.sleep(0.01)


def fetch(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    """One HTTP request, refused ones included."""
    try:
        with urllib.request.urlopen(url, data, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def eventually(
    condition: Callable[[], bool],
    explain: Callable[[], str] = lambda: "",
    patience: float = PATIENCE_S,
) -> None:
    """Wait for something outside of this process that sends no event."""
    with trio.move_on_after(patience):
        while not condition():
            await trio.sleep(0.01)
        return
    raise AssertionError(f"never became true: {explain()}")


@asynccontextmanager
async def open_daemon(
    site: Site,
    *,
    env: Mapping[str, str] | None = None,
    wrapper: Iterable[str] = (),
    program: Iterable[str] = ("relayd", "run"),
    python: Iterable[str] = (sys.executable, "-m"),
    ready: str | None = r"started",
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Daemon]:
    """Run relayd on a site until the block ends; killed there if it still runs.

    Args:
        site: where.
        env: added to the environment.
        wrapper: a command that runs another one, and its arguments.
        program: the Python module to run, and its first arguments.
        python: what runs the module; nothing, if `program` is a command.
        ready: a log line to wait for.
        pass_fds: descriptors that it inherits under their numbers.
    """
    command = [*wrapper, *python, *program, "-c", str(site.conf)]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        start_new_session=True,
        pass_fds=pass_fds,
    )
    daemon = Daemon(site, process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.run_reader)
            if ready is not None:
                await daemon.saw(ready)
            yield daemon
            nursery.cancel_scope.cancel()
    finally:
        kill_group(process.pid)
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


def kill_group(pid: int) -> None:
    """Kills a process and all of its session with SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def make_site(
    root: Path,
    database: ConnectionInfo,
    nodes: Mapping[str, SigningNode],
    extra: Mapping[str, str] | None = None,
) -> Site:
    """Write a site below `root` with these nodes and an empty spool."""
    site = Site(root, free_port(), database, dict(nodes), dict(extra or {}))
    site.write()
    site.incoming.mkdir(parents=True, exist_ok=True)
    return site
