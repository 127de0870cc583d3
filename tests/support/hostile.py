"""A real relay among hostile neighbours: its files, its clients and its servers are fuzzed.

The upstream and the sub-relays are one TLS server here, whose answers are hostile values. After
each batch, `Hostile.is_well` checks that relayd still runs, still does its work, and logged
nothing that it logs about its own bugs.
"""

import json
import ssl
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import h11
import trio

from relayd.config.main_conf import Settings
from relayd.config.toml import leaves
from tests.support.daemon import NOWHERE, Daemon, Site, merge, open_daemon, replace
from tests.support.fuzzed import API, Fuzzer
from tests.support.ports import free_port
from tests.support.signing import SigningNode, make_key_and_cert
from tests.support.tls_server import server_context

ME: Final = "relay"
SUBS: Final = tuple(f"sub{number}" for number in range(4))
#: Words of lines about bugs of relayd itself.
_BUGS: Final = ("Traceback", "crashed", "request failed", "Internal Server Error", "RuntimeWarning")
#: Seconds that a client or server waits for the other side, which may not know that it is its turn.
_PATIENCE_S: Final = 0.3
_LOST = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
    ssl.SSLError,
    h11.RemoteProtocolError,
    h11.LocalProtocolError,
)


class HostileSite(Site):
    """A relay below 127.0.0.1, which is also where its sub-relays are."""

    https_port = 0

    def tables(self) -> dict[str, str]:
        """Return what `main.conf` says by itself."""
        tables = super().tables()
        del tables["output.database"]
        tables["general"] = merge(
            tables["general"],
            f'node_id = "{ME}"\nhttps_port = {self.https_port}\ncore_threads = 1',
        )
        reports = f'directory = "{self.root / "reports"}"\noutput = "upstream"'
        tables["processing.reporting"] = reports
        tables["output.upstream"] = f"""
            host = "127.0.0.1"
            password = "p"
            server_certificate_file = "{self.root / "upstream.pem"}"
        """
        tables["remote_run"] = 'command = "/bin/true"\nuse_sudo = false'
        tables["shared_files"] = f'path = "{self.root / "shared-files"}"'
        tables["shared_folder"] = f'path = "{self.root / "shared-folder"}"'
        return tables

    def write_nodes(self, nodes: object = ()) -> None:
        """Write the good nodes list and certificates."""
        replace(self.nodes_list, json.dumps(self.good_nodes()).encode())
        replace(self.certificates, b"".join(node.cert_pem for node in self.nodes.values()))

    def good_nodes(self) -> dict[str, object]:
        """Return this relay, the sub-relays, a node below each, and one of its own."""
        servers = {ME: "root", **dict.fromkeys(SUBS, ME), "mine": ME}
        servers |= {f"below-{sub}": sub for sub in SUBS}
        return {
            node_id: {"hostname": "127.0.0.1", "policy-server": server, "key-hash": ""}
            for node_id, server in servers.items()
        }

    def write(self) -> None:
        """Write everything that relayd reads at its start."""
        for name in ("shared-files", "shared-folder", "reports/incoming"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "shared-folder" / "file.txt").write_bytes(b"x" * 1000)
        (self.root / "upstream.pem").write_bytes(self.nodes[SUBS[0]].cert_pem)
        super().write()
        (self.conf / "logging.conf").write_text('general.level = "info"\n')


class HostileServer:
    """The TLS server: answers each request as the test says, then closes.

    Attributes:
        answer: what to answer to the head of a request.
        plain: whether it sends that instead of a TLS handshake.
    """

    def __init__(self, node: SigningNode) -> None:
        self.answer: Callable[[bytes], bytes] = lambda _head: _GOOD
        self.plain = False
        self._context = server_context(node)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        with suppress(*_LOST), trio.move_on_after(10):
            if self.plain:
                await stream.send_all(self.answer(b""))
            else:
                await self._serve(stream)
        stream.socket.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        head = b""
        while b"\r\n\r\n" not in head:
            more = bytes(await tls.receive_some(65_536))
            if not more:
                return
            head += more
        await tls.send_all(self.answer(head))
        with trio.move_on_after(_PATIENCE_S if len(head) % 8 == 0 else 0):
            await tls.receive_some(1)


_GOOD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Hostile:
    """A running relay and its neighbours.

    Attributes:
        done: cases by surface.
        recent: the last ones, to be printed at a failure.
    """

    def __init__(self, fuzzer: Fuzzer, site: HostileSite, daemon: Daemon, server: HostileServer):
        self.fuzzer = fuzzer
        self.site = site
        self.daemon = daemon
        self.server = server
        self.done: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=40)
        self._seen = 0

    def note(self, surface: str, number: int, value: object, count: int = 1) -> None:
        """Note cases that are about to be tried."""
        self.done[surface] += count
        self.recent.append(f"{surface} {number}: {value!r:.600}")

    async def run(self, surface: str, numbers: range) -> None:
        """Try cases of one surface, then check relayd."""
        tries = {
            "nodes list": self.try_nodes_lists,
            "certificates": self.try_certificates,
            "requests": self.try_requests,
            "upstream": self.try_upstream,
            "sub-relay": self.try_sub_relays,
        }
        try:
            with trio.fail_after(60 + len(numbers)):
                await tries[surface](numbers)
                await self.is_well()
        except BaseException:
            sys.stderr.write(f"seed {self.fuzzer.seed}, {surface} {numbers}; the last cases:\n")
            sys.stderr.writelines(f"  {line}\n" for line in self.recent)
            raise

    async def is_well(self) -> None:
        """Check that relayd runs, works and found no bug of its own."""
        self.server.answer, self.server.plain = lambda _head: _GOOD, False
        self.site.write()
        assert await self.reload() == 200
        assert self.daemon.process.poll() is None
        assert (await self.daemon.get(f"{API.decode()}/system/info"))[0] == 200
        found = b""
        for _ in range(8):  # connections from before may be closed by the server at any time
            found = await self.talk(_request(b"HEAD", b"/shared-files/other/mine/f?hash=00"), 20)
            if found.startswith(b"HTTP/1.1 200"):
                break
        assert found.startswith(b"HTTP/1.1 200"), found
        lines, self._seen = self.daemon.lines[self._seen :], len(self.daemon.lines)
        bugs = [line for line in lines if any(word in line for word in _BUGS)]
        assert not bugs, "\n".join(lines[lines.index(bugs[0]) :][:40])
        del self.daemon.lines[: self._seen]
        self._seen = 0

    async def reload(self) -> int:
        """Reload by a request, and return the status."""
        return (await self.daemon.post(f"{API.decode()}/system/reload"))[0]

    async def talk(self, data: bytes, patience: float = _PATIENCE_S) -> bytes:
        """Send bytes to the API on a connection of its own; return what came back in time."""
        answer = b""
        with suppress(*_LOST):
            async with await trio.open_tcp_stream("127.0.0.1", self.site.port) as stream:
                with trio.move_on_after(patience):
                    await stream.send_all(data)
                    answer = bytes(await stream.receive_some(65_536))
        return answer

    async def try_nodes_lists(self, numbers: range) -> None:
        """Reload one nodes list with an entry for each number, and run agents on all its nodes."""
        entries = self.fuzzer.entries(numbers, (ME, *SUBS, "root"))
        document = json.dumps({**self.site.good_nodes(), **entries}).encode()
        rng = self.fuzzer.source("list", numbers.start)
        if rng.random() < 0.3:
            document = self.fuzzer.mutated(rng, document)
        self.note("nodes list", numbers.start, document, len(numbers))
        replace(self.site.nodes_list, document)
        assert await self.reload() in {200, 500}
        form = b"keep_output=true&asynchronous=false"
        lines = (b"Content-Type: application/x-www-form-urlencoded", b"Connection: close")
        events = (b"Accept: application/x-ndjson",) if rng.random() < 0.5 else ()
        request = _request(b"POST", b"/remote-run/all", *lines, *events, body=form)
        assert (await self.talk(request, 30)).startswith(b"HTTP/1.1 200")

    async def try_certificates(self, numbers: range) -> None:
        """Reload a certificates file, and sometimes a pinned certificate, of hostile ones."""
        good = [node.cert_pem for node in self.site.nodes.values()]
        pems = [self.fuzzer.pem(number, good[number % len(good)]) for number in numbers]
        self.note("certificates", numbers.start, pems, len(numbers))
        replace(self.site.certificates, b"".join(pems))
        assert await self.reload() in {200, 500}
        for pem in pems[:3]:
            replace(self.site.root / "upstream.pem", pem)
            assert await self.reload() in {200, 500}
            await self.talk(_request(b"HEAD", b"/shared-files/other/mine/f?hash=00"), 5)

    async def try_requests(self, numbers: range) -> None:
        """Send hostile requests, several at the same time."""
        await self._together(16, numbers, self._try_request)

    async def _try_request(self, number: int) -> None:
        data = self.fuzzer.request(number)
        self.note("requests", number, data)
        await self.talk(data)

    async def try_upstream(self, numbers: range) -> None:
        """Have requests forwarded to an upstream that answers with hostile bytes."""
        answers = iter([self.fuzzer.answer(number) for number in numbers] * 3)
        self.server.answer = lambda _head: next(answers, b"")
        self.server.plain = self.fuzzer.source("plain", numbers.start).random() < 0.1
        for number in range(5):
            self.site.upload(f"{numbers.start + number}.log", b"a run log")
        await self._together(8, numbers, self._try_upstream)

    async def _try_upstream(self, number: int) -> None:
        self.note("upstream", number, self.fuzzer.answer(number))
        if number % 4:
            request = _request(b"HEAD", b"/shared-files/other/mine/f?hash=00")
        else:
            request = _request(b"PUT", b"/shared-files/other/mine/f?ttl=1", body=b"x" * 100)
        await self.talk(request, 5)

    async def try_sub_relays(self, numbers: range) -> None:
        """Run agents below sub-relays that answer with hostile events and bytes."""
        below = ("root", ME, *SUBS, *(f"below-{sub}" for sub in SUBS))
        answers = iter([self.fuzzer.events(number, below) for number in numbers])
        self.server.answer = lambda _head: next(answers, b"")
        await self._together(8, numbers[:: len(SUBS)], self._try_sub_relays)

    async def _try_sub_relays(self, number: int) -> None:
        self.note("sub-relay", number, "four answers", len(SUBS))
        form = b"keep_output=true&asynchronous=%s" % (b"true" if number % 3 else b"false")
        lines = (b"Content-Type: application/x-www-form-urlencoded", b"Connection: close")
        events = (b"Accept: application/x-ndjson",) if number % 2 else ()
        await self.talk(_request(b"POST", b"/remote-run/all", *lines, *events, body=form), 5)

    async def _together(self, tasks: int, numbers: range, try_one: Callable[[int], object]) -> None:
        limiter = trio.CapacityLimiter(tasks)

        async def one(number: int) -> None:
            async with limiter:
                await try_one(number)  # type: ignore[misc]

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(one, number)


def configuration_keys() -> list[str]:
    """Return all keys of `main.conf`."""
    return [key for key, _ in leaves(Settings())]


def make_hostile_site(root: Path, nodes: Sequence[str] = (*SUBS, "mine")) -> HostileSite:
    """Write the relay's site below a directory; one key serves all servers."""
    first = make_key_and_cert(SUBS[0])
    known = {name: make_key_and_cert(name, key=first.key) for name in nodes}
    site = HostileSite(root, free_port(), NOWHERE, known)
    site.https_port = free_port()
    return site


@asynccontextmanager
async def open_hostile(root: Path, seed: int) -> AsyncIterator[Hostile]:
    """Run the relay and its server until the block ends."""
    site = make_hostile_site(root)
    server = HostileServer(site.nodes[SUBS[0]])
    listeners = await trio.open_tcp_listeners(site.https_port, host="127.0.0.1", backlog=200)
    site.write()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        async with open_daemon(site) as daemon:
            yield Hostile(Fuzzer(seed), site, daemon, server)
            assert await daemon.stop() == 0
        nursery.cancel_scope.cancel()


def _request(method: bytes, path: bytes, *lines: bytes, body: bytes | None = None) -> bytes:
    length = () if body is None else (b"Content-Length: %d" % len(body),)
    head = b"\r\n".join((method + b" " + API + path + b" HTTP/1.1", b"Host: r", *lines, *length))
    return head + b"\r\n\r\n" + (body or b"")
