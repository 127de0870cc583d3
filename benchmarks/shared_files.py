"""Measure uploads of shared files beside few and many files of the same source, and many sources.

The clients are threads of this process with one kept-alive connection each, like a web server's.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.measure import peak_bytes, say
from relayd.commands.demo.processes.ports import free_port

FEW: Final = 10
SOURCES: Final = 200
#: Clients of one source in the comparison.
CLIENTS: Final = 4
TARGET: Final = "target"
CONTENT: Final = b"a line of a shared file\n" * 40
_PATH: Final = "/rudder/relay-api/1/shared-files"
_MAIN_CONF: Final = """\
[general]
node_id = "root"
nodes_list_file = "{directory}/nodeslist.json"
listen = "127.0.0.1:{port}"
state_directory = "{directory}"
control_socket = ""
[processing.reporting]
output = "disabled"
[shared_files]
path = "{directory}/files"
"""


class Sender:
    """Uploads files in the name of any source; all of them have the same key."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._key = generate_private_key(65537, 4096)
        self.metadata = _metadata(self._key)
        self.statuses: list[int] = []
        self.slowest = 0.0

    def key_hash(self) -> str:
        """Return the hash of the key, as nodes lists have it."""
        public = self._key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"sha256:{hashlib.sha256(spki).hexdigest()}"

    def put(self, source: str, names: list[str]) -> None:
        """Upload files one after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        for name in names:
            start = time.perf_counter()
            url = f"{_PATH}/{TARGET}/{source}/{name}?ttl=1d"
            connection.request("PUT", url, self.metadata + b"\n" + CONTENT)
            answer = connection.getresponse()
            answer.read()
            self.statuses.append(answer.status)
            self.slowest = max(self.slowest, time.perf_counter() - start)
        connection.close()

    def rate(self, jobs: list[tuple[str, list[str]]]) -> float:
        """Upload all jobs at once, each with its own connection; return uploads per second."""
        self.statuses, self.slowest = [], 0.0
        threads = [threading.Thread(target=self.put, args=job) for job in jobs]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self.statuses) / (time.perf_counter() - start)


def _metadata(key: RSAPrivateKey) -> bytes:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return (
        "header=rudder-signature-v1\nalgorithm=sha512\n"
        f"digest={key.sign(CONTENT, PKCS1v15(), SHA512()).hex()}\n"
        f"hash_value={hashlib.sha512(CONTENT).hexdigest()}\n"
        f"short_pubkey={base64.b64encode(public).decode()}\n"
        "hostname=bench.test\nkeydate=2026-03-01 12:00:00 +0000\nkeyid=1A2B3C4D\n"
    ).encode()


def fill(place: Path, metadata: bytes, count: int) -> None:
    """Write as many pairs as if they had been uploaded; they expire in a year."""
    place.mkdir(parents=True)
    text = metadata + b"expires=%d" % (time.time() + 365 * 86_400)
    directory = os.open(place, os.O_RDONLY)
    for number in range(count):
        for name, data in ((f"old{number}", CONTENT), (f"old{number}.metadata", text)):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=directory)
            os.write(descriptor, data)
            os.close(descriptor)
    os.close(directory)


@contextmanager
def _running(directory: Path, port: int) -> Iterator[int]:
    configuration = directory / "main.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(_MAIN_CONF.format(directory=directory, port=port))
    (directory / "logging.conf").write_text('[general]\nlevel = "warn"\n')
    process = subprocess.Popen([sys.executable, "-m", "relayd", "run", "-c", directory])
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_until_up(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("HEAD", f"{_PATH}/{TARGET}/many/none?hash=0")
            if connection.getresponse().status == 404:
                return
        except OSError:
            pass
        finally:
            connection.close()
        if time.monotonic() > end:
            raise TimeoutError("relayd does not answer")
        time.sleep(0.1)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--uploads", type=int, default=200, help="per round (default: 200)")
    parser.add_argument(
        "--files", type=int, default=100_000, help="files of the large source (default: 100000)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        directory = Path(scratch)
        port = free_port()
        sender = Sender(port)
        below = {"hostname": "x.test", "policy-server": "root", "key-hash": sender.key_hash()}
        names = ["root", TARGET, "few", "many", *(f"source{n}" for n in range(SOURCES))]
        (directory / "nodeslist.json").write_text(json.dumps(dict.fromkeys(names, below)))
        for source, count in (("few", FEW), ("many", arguments.files)):
            say(f"writing {count} files")
            fill(directory / "files" / TARGET / "files" / source, sender.metadata, count)
        with _running(directory, port) as pid:
            _wait_until_up(port)
            _measure(sender, arguments)
            print(f"peak memory: {peak_bytes(pid) / 1e6:.0f} MB")


def _measure(sender: Sender, arguments: argparse.Namespace) -> None:
    print(f"relayd on Python {platform.python_version()}, {os.cpu_count()} cores")
    counts = {"few": FEW, "many": arguments.files}
    rates: dict[str, list[float]] = {"few": [], "many": []}
    for number in range(arguments.rounds):
        for source in sorted(rates, reverse=bool(number % 2)):
            jobs = [
                (source, [f"new{client}"] * (arguments.uploads // CLIENTS))
                for client in range(CLIENTS)
            ]
            rates[source].append(sender.rate(jobs))
            assert set(sender.statuses) == {200}, set(sender.statuses)
            say(f"{source}: {rates[source][-1]:.0f}/s")
    ratios = [many / few for many, few in zip(rates["many"], rates["few"], strict=True)]
    for source, found in rates.items():
        print(f"uploads beside {counts[source]} files: {statistics.median(found):.0f}/s")
    print(f"ratio: {statistics.median(ratios):.2f}")
    rate = sender.rate([(f"source{n}", ["a", "b", "c"]) for n in range(SOURCES)])
    good = sender.statuses.count(200)
    print(
        f"{SOURCES} sources at once, 3 files each: {good} of {3 * SOURCES} stored, "
        f"{rate:.0f}/s, slowest {sender.slowest:.1f} s"
    )


if __name__ == "__main__":
    main()
