"""Measure what forwarding a run log costs relayd, and how fast it is, near and far.

A relay process with 5,000 run logs in its spool is compared with the simplest sender: one upload
after the other over one persistent connection with `http.client`, then unlink. Both send to the
same nginx, which stores the files; for a distance, through a proxy that delays all bytes by half
the round-trip time in each direction. Compared are the CPU time of the sender alone (user and
system, all threads) per run log, and the rates.
"""

import argparse
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.measure import cpu_seconds, say
from relayd.commands.demo.processes.ports import free_port

#: Size in bytes of a signed run log with 72 reports.
SIZE: Final = 19_500
PASSWORD: Final = "benchmark"
#: The simple sender sends so many files, or as many as it can in about this time in seconds: its
#: rate does not depend on their number.
FEW: Final = 2000
SIMPLE_S: Final = 5.0
PATIENCE_S: Final = 600.0


class Figures(NamedTuple):
    """What one sender did.

    Attributes:
        rate: run logs per second.
        cpu: CPU seconds per run log.
    """

    rate: float
    cpu: float


def main() -> None:
    """Measure and print the figures of both contenders and their ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
    parser.add_argument(
        "--run-logs", type=int, default=5000, help="run logs per round (default: 5000)"
    )
    parser.add_argument(
        "--away",
        type=float,
        default=0.0,
        help="round-trip time in milliseconds; 0: no proxy in between (default: 0)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=SIZE,
        help=f"bytes of a run log; above 65536 the HTTP library sends them (default: {SIZE})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--delay", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.delay:
        port, inner = arguments.delay
        delay = partial(_delay, inner, arguments.away / 2000)
        trio.run(partial(trio.serve_tcp, delay, port, host="127.0.0.1"))
        return
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        _measure(Path(scratch), arguments)


def _measure(root: Path, arguments: argparse.Namespace) -> None:
    run_logs, away, rounds = arguments.run_logs, arguments.away, arguments.rounds
    size = arguments.size
    cert, key = make_identity(root)
    with _upstream(root, cert, key, away) as port:
        pairs = []
        for number in range(rounds):
            senders = [
                partial(_send_simply, root, cert, port, away, size),
                partial(_forward, root, cert, port, run_logs, size),
            ]
            simple, relay = _alternate(senders, number)
            pairs.append((simple, relay))
            say(f"round {number + 1} of {rounds}: relayd {_text(relay)}, simple {_text(simple)}")
    print(f"{run_logs} run logs of {size} bytes, round-trip time {away:g} ms, medians:")
    print(f"relayd {_text(_medians([relay for _, relay in pairs]))}")
    print(f"one at a time {_text(_medians([simple for simple, _ in pairs]))}")
    for name, ratios in (
        ("CPU", [relay.cpu / simple.cpu for simple, relay in pairs]),
        ("rate", [relay.rate / simple.rate for simple, relay in pairs]),
    ):
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"ratio of {name} {median(ratios):.2f} (rounds: {shown})")


def _alternate(senders: Sequence[Callable[[], Figures]], number: int) -> list[Figures]:
    """Run the senders in an order that changes from round to round."""
    order = senders if number % 2 == 0 else senders[::-1]
    figures = [send() for send in order]
    return figures if number % 2 == 0 else figures[::-1]


def _medians(figures: Sequence[Figures]) -> Figures:
    return Figures(median(f.rate for f in figures), median(f.cpu for f in figures))


def _text(figures: Figures) -> str:
    return f"{figures.rate:.0f}/s, {figures.cpu * 1000:.3f} ms CPU per run log"


_NGINX: Final = """\
daemon off;
user root;
worker_processes 1;
pid {root}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {root}/body;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    client_max_body_size 10m;
    location /reports/ {{ root {root}/stored; dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""


@contextmanager
def _upstream(root: Path, cert: Path, key: Path, away: float) -> Iterator[int]:
    """Run nginx, with a proxy before it if it is far away, and yield the port to send to."""
    port = free_port()
    conf = root / "nginx.conf"
    conf.write_text(_NGINX.format(root=root, port=port, cert=cert, key=key))
    (root / "stored").mkdir()
    with ExitStack() as stack:
        stack.enter_context(run_process("nginx", "-c", conf, "-p", root))
        wait_for(port)
        if away:
            inner, port = port, free_port()
            delay = ("--away", away, "--delay", port, inner)
            stack.enter_context(run_process(sys.executable, "-m", "benchmarks.forward", *delay))
            wait_for(port)
        yield port


def make_identity(root: Path) -> tuple[Path, Path]:
    """Write a certificate like an agent's and its key, and return their paths."""
    key = generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, "root")])
    begin = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    (root / "cert").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (root / "key").write_bytes(pem)
    return root / "cert", root / "key"


@contextmanager
def run_process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends."""
    process = subprocess.Popen(
        [*map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    """Return when something listens on a port.

    Raises:
        RuntimeError: nothing does.
    """
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


def _fill(directory: Path, count: int, size: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = directory / f"2026-03-01T00:{number // 60 % 60:02}:{number % 60:02}Z@n{number}.log"
        path.write_bytes(os.urandom(size))


def _send_simply(root: Path, cert: Path, port: int, away: float, size: int) -> Figures:
    """Send with the simple sender."""
    count = min(FEW, int(SIMPLE_S * 1000 / away)) if away else FEW
    _fill(root / "simple", count, size)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cert)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    connection.connect()
    headers = {"Authorization": "Basic " + b64encode(f"rudder:{PASSWORD}".encode()).decode()}
    begin, used = time.perf_counter(), time.process_time()
    for path in sorted((root / "simple").iterdir()):
        connection.request("PUT", f"/reports/{path.name}", path.read_bytes(), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in {201, 204}:
            raise RuntimeError(f"the upstream answered {answer.status}")
        path.unlink()
    passed, used = time.perf_counter() - begin, time.process_time() - used
    connection.close()
    return Figures(count / passed, used / count)


def _forward(root: Path, cert: Path, port: int, count: int, size: int) -> Figures:
    """Send with relayd; measured from the first rename to the last unlink."""
    waiting, spool = root / "waiting", root / "reports"
    _fill(waiting, count, size)
    api = free_port()
    conf = root / "etc"
    conf.mkdir(exist_ok=True)
    (conf / "logging.conf").touch()
    (conf / "main.conf").write_text(
        f"""
        [general]
        node_id = "relay"
        https_port = {port}
        listen = "127.0.0.1:{api}"
        state_directory = "{root}"
        control_socket = ""
        [processing.reporting]
        directory = "{spool}"
        output = "upstream"
        [output.upstream]
        host = "127.0.0.1"
        password = "{PASSWORD}"
        server_certificate_file = "{cert}"
        """
    )
    (conf / "main.conf").chmod(0o640)
    with run_process(sys.executable, "-m", "relayd", "run", "-c", conf) as process:
        wait_for(api)
        time.sleep(1)
        begin, used = time.perf_counter(), cpu_seconds(process.pid)
        for path in waiting.iterdir():
            path.rename(spool / "incoming" / path.name)
        while any((spool / "incoming").iterdir()):
            if time.perf_counter() - begin > PATIENCE_S:
                raise RuntimeError("relayd did not forward all run logs")
            time.sleep(0.02)
        passed, used = time.perf_counter() - begin, cpu_seconds(process.pid) - used
        return Figures(count / passed, used / count)


async def _delay(port: int, one_way_s: float, client: trio.SocketStream) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as both:
        both.start_soon(_carry, client, server, one_way_s)
        await _carry(server, client, one_way_s)
        both.cancel_scope.cancel()


async def _carry(source: trio.SocketStream, target: trio.SocketStream, one_way_s: float) -> None:
    """Copy bytes with a delay, independently of how many are in flight."""
    in_flight, arriving = trio.open_memory_channel[tuple[float, bytes]](10_000)

    async def deliver() -> None:
        async for due, data in arriving:
            await trio.sleep_until(due)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await target.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        with in_flight, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await in_flight.send((trio.current_time() + one_way_s, bytes(data)))


if __name__ == "__main__":
    main()
