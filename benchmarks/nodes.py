"""Measure how long a large fleet takes to load, its memory, and the delay of the event loop.

    python -m benchmarks.nodes [--nodes 50000]

Writes a nodes list and RSA-4096 certificates: one real certificate, with another id, serial number
and modulus for each node, as loading checks no signatures. Loads them in a thread while a Trio task
wakes up every millisecond. Prints seconds, the longest and 99th percentile delay of those wake-ups,
and the growth of resident memory.
"""

import argparse
import base64
import datetime
import gc
import json
import os
import random
import tempfile
import time
import uuid
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from relayd.fleet.loading import Loaded, load_nodes

_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"
_SERIAL = int.from_bytes(b"\x55" * 19)


def main() -> None:
    """Write the files to a temporary directory, load them twice, print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nodes",
        description="Load a large fleet while an event loop is running.",
    )
    parser.add_argument(
        "--nodes", type=int, default=50_000, help="number of nodes (default: 50000)"
    )
    count = parser.parse_args().nodes
    with tempfile.TemporaryDirectory() as directory:
        files = (Path(directory) / "nodeslist.json", Path(directory) / "allnodescerts.pem")
        child = os.fork()
        if child == 0:  # in a child, so that the memory used for writing does not count
            _write_fleet(*files, count)
            os._exit(0)
        os.waitpid(child, 0)
        print(f"{count} nodes: " + ", ".join(f"{f.name} {f.stat().st_size:,} bytes" for f in files))
        trio.run(_measure, files, count)


async def _measure(files: tuple[Path, Path], count: int) -> None:
    kept: list[Loaded] = []
    for name in ("first load", "reload"):
        gc.collect()
        before = _resident_bytes()
        lags: list[float] = []
        with trio.CancelScope() as done:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_lag, lags)
                began, cpu = time.perf_counter(), time.process_time()
                loaded = await trio.to_thread.run_sync(load_nodes, *files, "root")
                took, cpu = time.perf_counter() - began, time.process_time() - cpu
                done.cancel()
        kept[:] = [loaded]
        del loaded
        gc.collect()
        lags.sort()
        grown = _resident_bytes() - before
        print(
            f"{name}: {took:.2f} s ({cpu:.2f} s CPU), event-loop lag max {lags[-1] * 1e3:.1f} ms, "
            f"p99 {lags[int(len(lags) * 0.99)] * 1e3:.1f} ms ({len(lags)} wake-ups), "
            f"resident memory {grown / 1e6:+.1f} MB ({grown / count:+.0f} bytes per node)"
        )
        print(f"  {kept[0].nodes.sub_nodes} nodes, warnings: {kept[0].warnings}")


async def _watch_lag(lags: list[float]) -> None:
    while True:
        due = trio.current_time() + 0.001
        await trio.sleep_until(due)
        lags.append(trio.current_time() - due)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _write_fleet(list_file: Path, certs_file: Path, count: int) -> None:
    der, modulus = _pattern()
    chance = random.Random(1)
    entries = {}
    with certs_file.open("wb") as certs:
        for number in range(count):
            node_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            entries[node_id] = {
                "hostname": f"node{number}.example.org",
                "policy-server": "root",
                "key-hash": f"sha256:{chance.randbytes(32).hex()}",
            }
            key = b"\xff" + chance.randbytes(510) + b"\x01"
            serial = b"\x55" + chance.randbytes(18)
            own = der.replace(_PLACEHOLDER.encode(), node_id.encode()).replace(modulus, key)
            body = base64.encodebytes(own.replace(b"\x55" * 19, serial))
            certs.write(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
    list_file.write_text(json.dumps(entries, indent=2))


def _pattern() -> tuple[bytes, bytes]:
    """Make one certificate; return its DER and the modulus in it."""
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(x509.NameOID.USER_ID, _PLACEHOLDER)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_SERIAL)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.DER), key.public_key().public_numbers().n.to_bytes(512)


if __name__ == "__main__":
    main()
