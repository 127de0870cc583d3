"""Measure how fast relayd forwards run logs to an upstream with a round-trip time of 50 ms.

A relay process with 5,000 run logs in its spool is compared with the simplest sender: one upload
after the other over one persistent connection, then unlink. Both talk to the same server process,
through a proxy that delays all bytes by half the round-trip time in each direction.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.measure import say
from relayd.commands.demo.processes.ports import free_port

#: Size in bytes of a signed run log with 72 reports.
SIZE: Final = 19_500
PASSWORD: Final = "benchmark"
#: Files for the simple sender: its rate does not depend on their number.
FEW: Final = 100
PATIENCE_S: Final = 600.0


def main() -> None:
    """Measure and print the rates of both contenders and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
    parser.add_argument(
        "--run-logs", type=int, default=5000, help="run logs per round (default: 5000)"
    )
    parser.add_argument(
        "--away", type=float, default=50.0, help="round-trip time in milliseconds (default: 50)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--serve", nargs=3, metavar=("PORT", "CERT", "KEY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        port, cert, key = arguments.serve
        trio.run(_serve, int(port), cert, key, arguments.away / 2000)
        return
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        _measure(Path(scratch), arguments.run_logs, arguments.away, arguments.rounds)


def _measure(root: Path, run_logs: int, away: float, rounds: int) -> None:
    cert, key = _identity(root)
    port = free_port()
    with _process("-m", "benchmarks.forward", "--away", str(away), "--serve", port, cert, key):
        _wait_for(port)
        ratios = []
        for number in range(rounds):
            simple = _send_simply(root, cert, port)
            relay = _forward(root, cert, port, run_logs)
            ratios.append(relay / simple)
            say(f"round {number + 1} of {rounds}: {relay:.0f}/s, one at a time {simple:.1f}/s")
    shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    print(f"{run_logs} run logs of {SIZE} bytes, round-trip time {away:g} ms:")
    print(f"relayd forwards {median(ratios):.1f} times as many per second as one at a time")
    print(f"(which sends {simple:.1f}/s; ratios of the rounds: {shown})")


def _identity(root: Path) -> tuple[Path, Path]:
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
def _process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], stderr=subprocess.DEVNULL, start_new_session=True
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


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")


def _fill(directory: Path, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = directory / f"2026-03-01T00:{number // 60 % 60:02}:{number % 60:02}Z@n{number}.log"
        path.write_bytes(os.urandom(SIZE))


def _send_simply(root: Path, cert: Path, port: int) -> float:
    """Return the uploads per second of the simple sender."""
    _fill(root / "simple", FEW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cert)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    connection.connect()
    headers = {"Authorization": "Basic " + b64encode(f"rudder:{PASSWORD}".encode()).decode()}
    begin = time.perf_counter()
    for path in sorted((root / "simple").iterdir()):
        connection.request("PUT", f"/reports/{path.name}", path.read_bytes(), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 201:
            raise RuntimeError(f"the upstream answered {answer.status}")
        path.unlink()
    passed = time.perf_counter() - begin
    connection.close()
    return FEW / passed


def _forward(root: Path, cert: Path, port: int, count: int) -> float:
    """Return the uploads per second of relayd, from the first rename to the last unlink."""
    waiting, spool = root / "waiting", root / "reports"
    _fill(waiting, count)
    api = free_port()
    conf = root / "etc"
    conf.mkdir(exist_ok=True)
    (conf / "logging.conf").touch()
    (conf / "main.conf").write_text(
        f"""
        general = {{ node_id = "relay", https_port = {port}, listen = "127.0.0.1:{api}" }}
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
    with _process("-m", "relayd", "run", "-c", conf):
        _wait_for(api)
        time.sleep(1)
        begin = time.perf_counter()
        for path in waiting.iterdir():
            path.rename(spool / "incoming" / path.name)
        while any((spool / "incoming").iterdir()):
            if time.perf_counter() - begin > PATIENCE_S:
                raise RuntimeError("relayd did not forward all run logs")
            time.sleep(0.05)
        return count / (time.perf_counter() - begin)


async def _serve(port: int, cert: str, key: str, one_way_s: float) -> None:
    """Run the upstream and, on `port`, the delaying proxy in front of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = [trio.SSLListener(listener, context, https_compatible=True) for listener in tcp]
    inner = tcp[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _take_uploads, listeners)
        await trio.serve_tcp(partial(_delay, inner, one_way_s), port, host="127.0.0.1")


async def _take_uploads(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Accept uploads; of each request, only the length of the body is read."""
    data = b""
    try:
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                if not (more := await stream.receive_some(65_536)):
                    return
                data += more
            head = data[:end].lower()
            left = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            left -= len(data) - end - 4
            while left > 0:
                if not (more := await stream.receive_some(65_536)):
                    return
                left -= len(more)
            data = b""
            await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    except trio.BrokenResourceError:
        return


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
