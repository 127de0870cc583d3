"""Measure how long a relay takes from its exec to its first answer, and what the libraries take.

A relay with two empty spools and an upstream that is not there is started again and again, in turns
with interpreters that only import a library. Its CPU time until the answer, user and system, of all
threads, is the steady figure; the time on the clock depends on what else the machine does.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks.forward import make_identity
from benchmarks.measure import say
from relayd.commands.demo.processes.ports import free_port

#: What the interpreter takes at least, and with the libraries that an answer needs.
FLOORS: Final = {
    "interpreter": "pass",
    "trio": "import trio",
    "quart_trio": "import quart_trio",
    "quart_trio, hypercorn": "import quart_trio, hypercorn.trio",
}
_REQUEST: Final = b"GET /rudder/relay-api/1/system/info HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.001
_MAIN_CONF: Final = """\
[general]
node_id = "relay"
listen = "127.0.0.1:{port}"
state_directory = "{root}"
control_socket = ""
[processing.reporting]
directory = "{root}/reports"
output = "upstream"
[processing.inventory]
directory = "{root}/inventories"
output = "upstream"
[output.upstream]
host = "127.0.0.1"
password = "benchmark"
server_certificate_file = "{root}/cert.pem"
"""


class Start(NamedTuple):
    """What one start took.

    Attributes:
        elapsed: milliseconds on the clock.
        cpu: milliseconds of CPU time.
        memory: resident bytes one second later; 0 for an interpreter that has ended.
    """

    elapsed: float
    cpu: float
    memory: int = 0


def main() -> None:
    """Measure and print the medians and minima of all contenders."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (default: 15)")
    parser.add_argument(
        "--other",
        action="append",
        default=[],
        metavar="COMMAND",
        help="another relayd to compare with, such as '/opt/relayd/bin/relayd run'",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as scratch:
        root = Path(scratch)
        make_identity(root)
        _measure(root, arguments.rounds, [command.split() for command in arguments.other])


def _measure(root: Path, rounds: int, others: Sequence[Sequence[str]]) -> None:
    relay = [sys.executable, "-m", "relayd", "run"]
    contenders: dict[str, Callable[[], Start]] = {
        name: partial(_import, program) for name, program in FLOORS.items()
    }
    contenders["relay"] = partial(_start, root, relay)
    contenders |= {" ".join(other): partial(_start, root, other) for other in others}
    found: dict[str, list[Start]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(contenders[name]())
        say(f"round {number} of {rounds}: relay {found['relay'][-1].cpu:.0f} ms CPU")
    for name, starts in found.items():
        print(f"{name}: {_text(starts[1:])}")  # the first round fills the page cache


def _text(starts: Sequence[Start]) -> str:
    cpu, elapsed = [one.cpu for one in starts], [one.elapsed for one in starts]
    text = (
        f"CPU {median(cpu):.0f} ms (minimum {min(cpu):.0f}), "
        f"elapsed {median(elapsed):.0f} ms (minimum {min(elapsed):.0f})"
    )
    memory = median(one.memory for one in starts)
    return f"{text}, {memory / 1e6:.1f} MB" if memory else text


def _environment() -> dict[str, str]:
    """Return the environment of a service: UTF-8, and compiled files are kept."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONUTF8": "1",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
    }


def _import(program: str) -> Start:
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", program], env=_environment()) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    elapsed = time.perf_counter() - begin
    return Start(1000 * elapsed, 1000 * (used.ru_utime + used.ru_stime))


def _start(root: Path, command: Sequence[str]) -> Start:
    port = free_port()
    (root / "main.conf").touch(mode=0o600)
    (root / "main.conf").write_text(_MAIN_CONF.format(root=root, port=port))
    (root / "logging.conf").write_text('[general]\nlevel = "info"\n')
    with (root / "relayd.log").open("wb") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*command, "-c", root],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for_answer(port, process)
        elapsed, cpu = time.perf_counter() - begin, _cpu_seconds(process.pid)
        time.sleep(1.0)
        memory = _resident_bytes(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE_S)
    return Start(1000 * elapsed, 1000 * cpu, memory)


def _wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as sock:
                sock.sendall(_REQUEST)
                if sock.recv(4096).startswith(b"HTTP/1.1 200 "):
                    return
        except ConnectionError:
            time.sleep(_POLL_S)
    raise RuntimeError("relayd does not answer")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
