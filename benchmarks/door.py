"""Measure uploads of agents into relayd's own server, and into Apache httpd beside it.

Each upload has a connection of its own, with a TLS 1.3 handshake and a password, and the size of a
signed run log, as agents make it. Uploads begin at a steady rate, whatever the answers take, and
go to all servers in turn: relayd over HTTP/1.1, another relayd over HTTP/2, and Apache with the
shipped configuration and the same file of passwords.

Printed are the time from the beginning of the connection to the answer, and the CPU time of the
server (user and system, all its threads and processes) for each upload.
"""

import argparse
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final, Literal

import h2.connection
import h2.events
import trio

from benchmarks.forward import PASSWORD, SIZE, make_identity, run_process, wait_for
from benchmarks.measure import children, cpu_seconds, say
from relayd.commands.demo.processes.ports import free_port

_APACHE: Final = Path(__file__).parent.parent / "conf" / "apache" / "rudder-relayd.conf"
_MODULES: Final = ("mpm_event", "socache_shmcb")
_MODULE_DIRECTORIES: Final = (
    Path("/usr/lib/apache2/modules"),
    Path("/usr/lib64/httpd/modules"),
    Path("/usr/lib/httpd/modules"),
)
#: Uploads before anything is measured: they load code and check the password for the first time.
_WARM: Final = 20
_PATIENCE_S: Final = 60.0
_FRAME: Final = 16_384
#: The report of progress is made so often.
_PROGRESS_S: Final = 10.0

Version = Literal["http/1.1", "h2"]


@dataclass
class Contender:
    """One server.

    Attributes:
        name: as it is printed.
        port: of HTTPS on 127.0.0.1.
        version: of HTTP.
        pid: the server's main process.
        seconds: how long each answer took.
        failed: uploads without a good answer.
        cpu: CPU seconds used so far when the measurement began.
    """

    name: str
    port: int
    version: Version
    pid: int
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    cpu: float = 0.0

    def used(self) -> float:
        """Return the CPU seconds of all its processes so far."""
        pids = [self.pid, *children(self.pid)]
        return sum(cpu_seconds(pid, with_ended_children=pid == self.pid) for pid in pids)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks door", description=__doc__)
    parser.add_argument("--agents", type=int, default=2000, help="agents (default: 2000)")
    parser.add_argument(
        "--rate", type=float, default=10, help="uploads per second to each server (default: 10)"
    )
    parser.add_argument("--seconds", type=float, default=600, help="duration (default: 600)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        root.chmod(0o755)
        contenders = _start(root, stack)
        trio.run(_measure, contenders, chosen.agents, chosen.rate, chosen.seconds)
        _show(contenders, chosen)


def _start(root: Path, stack: ExitStack) -> list[Contender]:
    make_identity(root)
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
    )
    (root / "passwords").write_text(f"rudder:{hashed.stdout}")
    (root / "networks").write_text("Require ip 127.0.0.1\n")
    found = [
        stack.enter_context(_relayd(root, "relayd, HTTP/1.1", "http/1.1")),
        stack.enter_context(_relayd(root, "relayd, HTTP/2", "h2")),
    ]
    program = shutil.which("apache2", path="/usr/sbin:/usr/bin") or shutil.which("httpd")
    if program is None:
        say("there is no Apache here: nothing to compare with")
        return found
    return [*found, stack.enter_context(_apache(root, program))]


@contextmanager
def _relayd(root: Path, name: str, version: Version) -> Iterator[Contender]:
    own, port, api = root / f"relayd-{version.replace('/', '')}", free_port(), free_port()
    own.mkdir()
    (own / "logging.conf").touch()
    (own / "main.conf").write_text(
        f"""
        [general]
        node_id = "root"
        nodes_list_file = "{own}/nodeslist.json"
        nodes_certs_file = "{own}/nodes.pem"
        listen = "127.0.0.1:{api}"
        state_directory = "{own}"
        control_socket = ""
        [processing.reporting]
        directory = "{own}/reports"
        output = "disabled"
        [processing.inventory]
        directory = "{own}/inventories"
        [server]
        listen = ["127.0.0.1:{port}"]
        certificate_file = "{root}/cert"
        key_file = "{root}/key"
        passwords_file = "{root}/passwords"
        initial_passwords_file = "{root}/passwords"
        networks_file = "{root}/networks"
        policy_servers_file = "{root}/networks"
        """
    )
    (own / "nodeslist.json").write_text(
        '{"root": {"hostname": "root.test", "policy-server": "root"}}'
    )
    (own / "main.conf").chmod(0o640)
    with run_process(sys.executable, "-m", "relayd", "run", "-c", own) as process:
        wait_for(port)
        yield Contender(name, port, version, process.pid)


@contextmanager
def _apache(root: Path, program: str) -> Iterator[Contender]:
    own, port = root / "apache", free_port()
    for directory in ("locks", "reports/incoming", "inventories/incoming"):
        (own / directory).mkdir(parents=True)
        (own / directory).chmod(0o777)
    (own / "inventories" / "accepted-nodes-updates").mkdir()
    wanted = re.search(r"# Modules: ([a-z_#\s]+)\.", _APACHE.read_text())
    assert wanted is not None
    names = sorted({*_MODULES, *wanted[1].replace("#", "").split()})
    modules = next((path for path in _MODULE_DIRECTORIES if path.is_dir()), Path("modules"))
    defines = {
        "PORT": port,
        "CERTIFICATE": root / "cert",
        "KEY": root / "key",
        "NODES": root / "cert",
        "REPORTS": own / "reports",
        "INVENTORIES": own / "inventories",
        "PASSWORDS": root / "passwords",
        "INITIAL_PASSWORDS": root / "passwords",
        "NETWORKS": root / "networks",
        "POLICY_SERVERS": root / "networks",
        "API": "http://127.0.0.1:1",
    }
    lines = [
        f'ServerRoot "{own}"',
        "ServerName bench.test",
        f'PidFile "{own}/pid"',
        f'DefaultRuntimeDir "{own}"',
        f'ErrorLog "{own}/error.log"',
        *(f'LoadModule {name}_module "{modules}/mod_{name}.so"' for name in names),
        "User nobody",
        "Group #65534",
        f'DavLockDB "{own}/locks/DavLock"',
        f"Listen 127.0.0.1:{port}",
        *(f'Define RELAYD_{name} "{value}"' for name, value in defines.items()),
        f'Include "{_APACHE}"',
    ]
    (own / "apache.conf").write_text("\n".join(lines) + "\n")
    with run_process(program, "-f", own / "apache.conf", "-DFOREGROUND") as process:
        wait_for(port)
        yield Contender("Apache, HTTP/1.1", port, "http/1.1", process.pid)


async def _measure(contenders: list[Contender], agents: int, rate: float, seconds: float) -> None:
    body = os.urandom(SIZE)
    for contender in contenders:
        for agent in range(_WARM):
            await _upload(contender, agent, body)
        if contender.failed:
            raise RuntimeError(f"{contender.name} refuses uploads")
        contender.seconds.clear()
        contender.cpu = contender.used()
    say(f"{rate:g} uploads per second to each of {len(contenders)} servers, {seconds:g} s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report, contenders, seconds)
        begin, pause = trio.current_time(), 1 / rate / len(contenders)
        for number in range(round(seconds * rate)):
            for place, contender in enumerate(contenders):
                await trio.sleep_until(begin + (number * len(contenders) + place) * pause)
                nursery.start_soon(_upload, contender, number % agents, body)
    for contender in contenders:
        contender.cpu = contender.used() - contender.cpu


async def _report(contenders: list[Contender], seconds: float) -> None:
    begin = time.monotonic()
    while (passed := time.monotonic() - begin) < seconds - _PROGRESS_S:
        await trio.sleep(_PROGRESS_S)
        done = ", ".join(f"{one.name} {len(one.seconds)}" for one in contenders)
        say(f"{passed + _PROGRESS_S:.0f} of {seconds:.0f} s: {done}")


async def _upload(contender: Contender, agent: int, body: bytes) -> None:
    """Upload as one agent and note how long it took."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([contender.version])
    upload = _by_http_2 if contender.version == "h2" else _by_http_1
    path = f"/reports/agent{agent}.log"
    credentials = "Basic " + b64encode(f"rudder:{PASSWORD}".encode()).decode()
    begin = time.perf_counter()
    status = 0
    with trio.move_on_after(_PATIENCE_S):
        try:
            plain = await trio.open_tcp_stream("127.0.0.1", contender.port)
            stream = trio.SSLStream(plain, context, https_compatible=True)
            try:
                status = await upload(stream, path, credentials, body)
            finally:
                await trio.aclose_forcefully(plain)
        except (OSError, trio.BrokenResourceError):
            status = 0
    if status in (201, 204):
        contender.seconds.append(time.perf_counter() - begin)
    else:
        contender.failed += 1


Stream = trio.SSLStream[trio.SocketStream]


async def _by_http_1(stream: Stream, path: str, credentials: str, body: bytes) -> int:
    head = f"PUT {path} HTTP/1.1\r\nHost: relay\r\nAuthorization: {credentials}\r\n"
    await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = b""
    while b"\r\n\r\n" not in answer and (part := await stream.receive_some()):
        answer += part
    return int(answer[9:12] or b"0")


async def _by_http_2(stream: Stream, path: str, credentials: str, body: bytes) -> int:
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    pseudo = [(":method", "PUT"), (":scheme", "https"), (":authority", "relay"), (":path", path)]
    length = ("content-length", str(len(body)))
    connection.send_headers(1, [*pseudo, ("authorization", credentials), length])
    for at in range(0, len(body), _FRAME):
        connection.send_data(1, body[at : at + _FRAME])
    connection.end_stream(1)
    await stream.send_all(connection.data_to_send())
    while data := await stream.receive_some():
        for event in connection.receive_data(bytes(data)):
            if isinstance(event, h2.events.ResponseReceived):
                return int(dict(event.headers)[b":status"])
    return 0


def _show(contenders: list[Contender], chosen: argparse.Namespace) -> None:
    print(
        f"{chosen.agents} agents, {chosen.rate:g} uploads per second to each server, "
        f"{chosen.seconds:g} s, {SIZE} bytes each, a TLS 1.3 connection for each:"
    )
    for one in contenders:
        cuts = quantiles(one.seconds, n=100)
        print(
            f"{one.name}: {len(one.seconds)} uploads, {one.failed} failed, "
            f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, "
            f"CPU {one.cpu / max(1, len(one.seconds)) * 1000:.2f} ms per upload"
        )


if __name__ == "__main__":
    main()
