"""Shared folder and shared files of a real relayd: what it opens, and how much memory it takes."""

import hashlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import h11
import pytest
import trio

from tests.support.daemon import Daemon, Site, eventually, open_daemon
from tests.support.http import Client
from tests.support.shared import (
    FILES,
    FOLDER,
    SOURCE,
    TARGET,
    joined,
    lines,
    node,
    upload,
    write_nodes,
)
from tests.support.strace import open_strace
from tests.support.traversal import traversals

MIB = 1024 * 1024
#: Bytes by which relayd may grow.
GROWTH = 64 * MIB
#: Sources of uploads; eight of each would be taken at once, AT_ONCE of all.
SOURCES = 25
UPLOADS = 100
AT_ONCE = 32
UPLOAD_SIZE = 4 * MIB


pytestmark = pytest.mark.site(nodes=(), database=False)


@pytest.fixture
def site(site: Site, tmp_path: Path) -> Site:
    """Return a root server without a database; all sources have the same key."""
    site.extra = {
        "processing.reporting": 'output = "disabled"',
        "shared_folder": f'path = "{tmp_path / "folder"}"',
        "shared_files": f'path = "{tmp_path / "files"}"',
        "shared_files.cleanup": 'frequency = "1s"',
    }
    (tmp_path / "folder").mkdir()
    site.write()
    sources = [replace(node(), node_id=f"{SOURCE}{number}") for number in range(SOURCES)]
    write_nodes(site.nodes_list, [node(), *sources], TARGET)
    return site


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Client]:
    """Yield a connection to its API."""
    stream = await trio.open_tcp_stream("127.0.0.1", site.port)
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)


def memory(daemon: Daemon, what: str) -> int:
    """Bytes that the process has, or had at most."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(daemon: Daemon) -> int:
    """Reset the peak; return what the process has now."""
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")
    return memory(daemon, "VmRSS")


async def attack(site: Site, paths: list[str]) -> Counter[int]:
    """Climbing paths on every route; the statuses."""
    statuses: Counter[int] = Counter()
    body = upload(b"x")
    for path in paths:
        for method, prefix in (("GET", FOLDER), ("HEAD", FOLDER), ("PUT", FILES), ("HEAD", FILES)):
            data = body if method == "PUT" else b""
            head = (
                f"{method} {prefix}/{path}?ttl=1d HTTP/1.1\r\nHost: x\r\n"
                f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            async with connected(site) as client:
                await client.send(head.encode() + data)
                answer = await client.until_closed()
            assert b"CANARY" not in answer
            statuses[int(answer.split()[1])] += 1
    return statuses


@pytest.mark.fault("A6", "A7", "D.3.1")
async def test_nothing_outside_is_opened(site: Site, tmp_path: Path) -> None:
    """Hundreds of climbing paths and links on all four routes open no file but those inside."""
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    secret.write_text("CANARY")
    (folder / "link-out").symlink_to("../secret")
    (folder / "link-up").symlink_to("..")
    (folder / "link-proc").symlink_to("/proc/self")
    (folder / "link-loop").symlink_to("link-loop")
    (folder / "inside").write_text("inside")
    os.mkfifo(folder / "fifo")
    trace = tmp_path / "trace"
    async with open_daemon(site) as daemon:
        await attack(site, traversals()[::25])  # whatever is imported late is imported now
        opened = ("-f", "-y", "-o", trace, "-e", "trace=open,openat,openat2,creat")
        async with open_strace([daemon.process.pid], *opened):
            statuses = await attack(site, traversals())
            assert (await daemon.get(f"{FOLDER}/inside"))[1] == b"inside"
    assert statuses.total() == 4 * len(traversals())
    assert set(statuses) <= {400, 404, 414, 500}
    paths = set(re.findall(r"= \d+<([^>]+)>", trace.read_text()))
    assert str(folder / "inside") in paths
    allowed = (str(folder), str(tmp_path / "files"), sys.prefix, sys.base_prefix)
    assert [path for path in paths if not path.startswith(allowed)] == []
    assert not any((tmp_path / "files").rglob("*"))


@pytest.mark.fault("A3", "F58")
async def test_a_hundred_large_uploads_at_once(site: Site, tmp_path: Path) -> None:
    """They stream to disk in little memory, those beyond the limit after others have ended."""
    body = upload(os.urandom(UPLOAD_SIZE))
    site.extra["shared_files"] += f"\nmax_body_size = {len(body)}"
    site.write_conf()
    statuses: Counter[int] = Counter()
    gate = trio.Event()

    async def send(number: int) -> None:
        path = f"{FILES}/{TARGET}/{SOURCE}{number % SOURCES}/file{number}?ttl=1d"
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        async with connected(site) as client, trio.open_nursery() as nursery:
            nursery.start_soon(write, client, head.encode())
            statuses[(await client.answer("PUT")).status] += 1
            nursery.cancel_scope.cancel()

    async def write(client: Client, head: bytes) -> None:
        view = memoryview(body)
        await client.send(head + view[:-1])
        await gate.wait()
        await client.send(bytes(view[-1:]))

    async with open_daemon(site) as daemon:
        before = forget_peak(daemon)
        async with trio.open_nursery() as nursery:
            for number in range(UPLOADS):
                nursery.start_soon(send, number)
            stages = tmp_path / "files" / TARGET
            size = UPLOAD_SIZE - 256 * 1024
            await eventually(
                lambda: (
                    sum(path.stat().st_size > size for path in stages.glob(".*/file*")) == AT_ONCE
                )
            )
            assert (await daemon.get("/metrics"))[0] == 200
            gate.set()
        assert statuses == {200: UPLOADS}
        assert memory(daemon, "VmHWM") - before < GROWTH
        assert await daemon.metric("rudder_relayd_shared_files_total", outcome="stored") == UPLOADS
    stored = [path for path in (tmp_path / "files").rglob("file*") if path.suffix == ""]
    assert [path.stat().st_size for path in stored if path.is_file()] == [UPLOAD_SIZE] * UPLOADS


async def test_a_large_file_is_given_and_hashed_in_little_memory(
    site: Site, tmp_path: Path
) -> None:
    """However large it is, a file goes through piece by piece."""
    size = 256 * MIB
    with (tmp_path / "folder" / "large").open("wb") as file:
        file.truncate(size)
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    async with open_daemon(site) as daemon:
        before = forget_peak(daemon)
        got = 0
        async with connected(site) as client:
            head = f"GET {FOLDER}/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await client.send(head.encode())
            while part := await client.stream.receive_some(MIB):
                got += len(part)
        assert size < got < size + 1000
        for _ in range(2):
            async with connected(site) as client:
                path = f"{FOLDER}/large?hash={digest.hexdigest()}"
                assert (await client.ask("HEAD", path)).status == 304
        assert memory(daemon, "VmHWM") - before < GROWTH


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.fault("F21")
async def test_a_hundred_thousand_files_of_one_source(site: Site, tmp_path: Path) -> None:
    """Beside 100,000 files, 200 sources upload at once; kills lose nothing; all of it expires."""
    count, rounds, others = 100_000, 3, 200
    sources = [replace(node(), node_id=f"{SOURCE}{number}") for number in range(others)]
    write_nodes(site.nodes_list, [node(), *sources], TARGET)
    place = tmp_path / "files" / TARGET / "files" / SOURCE
    fill(place, count, int(time.time()) + 86_400)

    async def send(source: str, name: str, statuses: Counter[int], ttl: str = "1h") -> None:
        body = upload(name.encode())
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            async with connected(site) as client:
                path = f"{FILES}/{TARGET}/{source}/{name}?ttl={ttl}"
                statuses[(await client.ask("PUT", path, body)).status] += 1

    async def load(daemon: Daemon, number: int, kill_after: int | None) -> Counter[int]:
        statuses: Counter[int] = Counter()
        async with trio.open_nursery() as nursery:
            for other in range(others):
                nursery.start_soon(send, f"{SOURCE}{other}", f"f{number}", statuses)
                if other < 40:
                    nursery.start_soon(send, SOURCE, f"f{other}", statuses)
            if kill_after is not None:
                await eventually(lambda: statuses.total() > kill_after)
                daemon.process.kill()
        return statuses

    for number in range(rounds):
        async with open_daemon(site) as daemon:
            assert set(await load(daemon, number, 50 + 50 * number)) == {200}
            await daemon.process.wait()
    async with open_daemon(site) as daemon:
        before = memory(daemon, "VmRSS")
        assert await load(daemon, rounds, None) == {200: others + 40}
        assert memory(daemon, "VmHWM") - before < GROWTH
    async with open_daemon(site) as daemon:
        for other in range(40):
            await send(SOURCE, f"f{other}", Counter(), "0")
        await eventually(lambda: not any((place / f"f{other}").exists() for other in range(40)))
    assert len(list(place.iterdir())) == 2 * count
    assert not [path for path in (tmp_path / "files" / TARGET).iterdir() if path.name != "files"]


def fill(place: Path, count: int, expires: int) -> None:
    """Write pairs as if they had been uploaded."""
    place.mkdir(parents=True)
    text = joined(lines(b"x")) + f"expires={expires}".encode()
    for number in range(count):
        (place / f"old{number}").write_bytes(b"x")
        (place / f"old{number}.metadata").write_bytes(text)


@pytest.mark.history(36)
async def test_expired_files_disappear(site: Site, tmp_path: Path) -> None:
    """The running service removes what has expired, and nothing else."""
    place = tmp_path / "files" / TARGET / "files" / SOURCE
    async with open_daemon(site) as daemon, connected(site) as client:
        for name, ttl in (("kept", "1d"), ("application.properties", "0")):
            path = f"{FILES}/{TARGET}/{SOURCE}/{name}?ttl={ttl}"
            assert (await client.ask("PUT", path, upload(b"x"))).status == 200
        await daemon.saw("expired files removed")
        names = {"kept", "kept.metadata"}
        await eventually(lambda: {path.name for path in place.iterdir()} == names)
        assert await daemon.stop() == 0
