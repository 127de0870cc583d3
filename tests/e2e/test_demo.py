"""`relayd demo` as its users run it: a process in a pipe or a terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import pytest

from relayd.commands.demo.command import NOTHING_BEGUN
from relayd.commands.demo.run import BALANCED, NOT_BALANCED
from relayd.commands.demo.stopping import ABANDONED, COUNTING, HURRYING, STARTING
from tests.support.clustered import needs_programs

PATIENCE = 120
#: One line of the summary: text, expected, found, verdict, between vertical bars.
ENTRY = re.compile(r"│ (.+?) +│ +(\d*) │ +(\d+) │ (\S+) +│")


@pytest.fixture
def place(place: Path) -> Iterator[Path]:
    """Yield the directory that holds all files of the demo; no process of it is left."""
    yield place
    assert processes(str(place)) == []


def processes(text: str) -> list[int]:
    """Return the ids of the processes with `text` in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if text.encode() in command_and_environment(entry):
                    found.append(int(entry.name))
    return found


def command_and_environment(process: Path) -> bytes:
    return (process / "cmdline").read_bytes() + (process / "environ").read_bytes()


@contextmanager
def demo(
    place: Path, *arguments: str, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run the demo until the block ends."""
    environment = {
        **os.environ,
        "TMPDIR": str(place),
        "XDG_CACHE_HOME": str(place / "cache"),
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        "LINES": "50",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "relayd", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end and return the rest of the output."""
    output, _ = process.communicate(timeout=PATIENCE)
    return output


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read lines until one matches and return all of them."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"{pattern} not found in: {seen}")


def entries(output: str) -> dict[str, tuple[str, str, str]]:
    """Return the lines of the summary, by text."""
    return {text: (expected, found, mark) for text, expected, found, mark in ENTRY.findall(output)}


def test_once_balances(place: Path) -> None:
    """Forty uploads of eight nodes are all accounted for: rows, executions, refusals, no loss.

    relayd itself took them, over TLS.
    """
    with demo(place, "--once", "40", "--nodes", "8", "--bad", "20") as process:
        output = end(process)
    assert process.returncode == 0, output
    summary = entries(output)
    assert {mark for _, _, mark in summary.values()} == {"ok"}
    good = int(summary["run logs stored"][1])
    refused = sum(int(found) for text, (_, found, _) in summary.items() if "refused: " in text)
    twice = int(summary["replays recognized, not stored again"][1])
    assert refused >= 5
    assert good + refused + twice == 40
    assert summary["rows of executions stored"][1] == str(good)
    assert int(summary["rows of reports stored"][1]) > 10 * good
    assert summary["lost"][1] == summary["stored twice"][1] == "0"
    assert summary["still in the spool"][1] == summary["kept by their nodes"][1] == "0"
    log = re.search(r"relayd's log: (.+)", output)
    assert log is not None
    assert re.search(r"started .*, https://127\.0\.0\.1:\d+", Path(log[1]).read_text())


def test_relays_balance(place: Path) -> None:
    """The counts also match through one or two relays, and every agent can be run."""
    with demo(place, "--relays", "2", "--once", "40", "--nodes", "8", "--bad", "20") as process:
        output = end(process)
    assert process.returncode == 0, output
    summary = entries(output)
    assert {mark for _, _, mark in summary.values()} == {"ok"}
    good = int(summary["run logs stored"][1])
    refused = sum(int(found) for text, (_, found, _) in summary.items() if "refused: " in text)
    assert good + refused + int(summary["replays recognized, not stored again"][1]) == 40
    assert summary["still in the spool"][1] == "0"
    # Eight nodes, one that is silent, two relays, the root server.
    assert summary["agents run by remote runs"][:2] == ("12", "12")
    logs = [Path(path).read_text() for path in re.findall(r"relayd's log \(.*\): (.+)", output)]
    assert len(logs) == 3
    assert all("outcome=ok" in log for log in logs)


def test_relays_in_a_pipe(place: Path) -> None:
    """Without a terminal, lines show what each relay has forwarded, and Ctrl-C ends all relays."""
    with demo(place, "--relays", "1", "--nodes", "3", "--rate", "20") as process:
        seen = wait_for(process, r"stored [1-9]\d* .*  relay 1: \d+ waiting, [1-9]\d* forwarded")
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 0, output
    assert re.search(r"curl -d keep_output=true .*/remote-run/all", seen)
    assert BALANCED in output
    assert int(entries(output)["run logs stored"][1]) > 0


@pytest.mark.fault("F49")
def test_what_does_not_match_is_named(place: Path) -> None:
    """If a count is wrong, the files concerned are named, and everything is kept."""
    with demo(place, "--once", "8", "--nodes", "4") as process:
        wait_for(process, "RSA-2048 keys")
        (failed,) = place.glob("relayd-demo-*/reports/failed")
        (failed / "web.log.gz").touch()
        output = end(process)
    assert process.returncode == 1, output
    assert entries(output)["refused: good run logs"] == ("0", "1", "WRONG")
    assert f"{NOT_BALANCED}\nrefused: good run logs: web.log.gz\n" in output
    assert f"{failed.parent.parent}, where everything is kept" in output
    assert (failed / "web.log.gz").exists()


@pytest.mark.fault("F49")
def test_story_of_faults_balances(place: Path) -> None:
    """The demo stops the database, kills relayd, says so, and accounts for every run log."""
    with demo(place, "--nodes", "8", "--rate", "10", "--part", "1s", "--bad", "20") as process:
        seen = wait_for(process, "That was the story")
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 0, output
    for sentence in (
        "bad ones are sent on purpose",
        "The database is stopped",
        r"The database is back: \d+ waiting run logs were processed in",
        r"relayd is killed \(SIGKILL\)",
        r"relayd is back: \d+ waiting run logs were processed in",
    ):
        assert re.search(sentence, seen), sentence
    assert re.search(r"The database was away for \d+ s; [1-9]\d* run logs waited", output)
    assert "relayd was killed once (SIGKILL) while it worked" in output
    summary = entries(output)
    assert {mark for _, _, mark in summary.values()} == {"ok"}
    assert summary["lost"][1] == summary["stored twice"][1] == "0"
    assert BALANCED in output


@pytest.mark.fault("D22")
def test_a_failover_under_patroni_balances(place: Path) -> None:
    """The primary of a cluster crashes under two relayds: nothing is lost or stored twice."""
    needs_programs()
    options = ("--cluster", "--failovers", "postmaster", "--part", "1s")
    with demo(place, *options, "--nodes", "4", "--rate", "20", "--bad", "0") as process:
        wait_for(process, "Normal work goes on; Ctrl-C stops and counts")
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 0, output
    assert re.search(r"postmaster: (db\d) to (?!\1)db\d, \d+\.\d s without commits", output)
    assert "Lost by failovers and stored again from held files:" in output
    assert entries(output)["lost"][1] == entries(output)["stored twice"][1] == "0"
    assert re.findall(r"relayd's log \((.*)\):", output) == ["server 1", "server 2"]
    assert not list(place.glob("relayd-cluster-*"))


@pytest.mark.fault("F49")
def test_interrupt_during_the_outage(place: Path) -> None:
    """Ctrl-C while the database is stopped starts it again, and everything is accounted for."""
    with demo(place, "--nodes", "3", "--rate", "20", "--part", "1s") as process:
        wait_for(process, "The database is stopped")
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 0, output
    assert BALANCED in output


@pytest.mark.fault("F47")
@pytest.mark.parametrize("interrupts", [2, 3])
def test_further_interrupts_hurry_the_end(place: Path, interrupts: int) -> None:
    """A second Ctrl-C does not wait for the spool to be empty; only a third drops the accounts."""
    with demo(place, "--nodes", "3", "--rate", "10") as process:
        wait_for(process, r"stored [1-9]")
        # An upload that never ends: the spool is not empty until relayd gives it up.
        (incoming,) = place.glob("relayd-demo-*/reports/incoming")
        (incoming / ".davfs.tmp000000").touch()
        for sentence in (COUNTING, HURRYING):
            process.send_signal(signal.SIGINT)
            wait_for(process, re.escape(sentence[:40]))
        if interrupts == 3:
            process.send_signal(signal.SIGINT)
        output = end(process)
    summary = entries(output)
    if interrupts == 3:
        assert process.returncode == 130, output
        assert ABANDONED in output
        assert summary == {}
        assert list(place.glob("relayd-demo-*")) == []
        return
    assert process.returncode == 0, output
    assert BALANCED in output
    assert int(summary["still in the spool"][1]) >= 1
    # relayd was not given the time to recognize all of them.
    assert "replays recognized, not stored again" not in summary


@pytest.mark.fault("F47")
@pytest.mark.parametrize("step", ["initdb", "postgres", "psql", "run\0-c"])
def test_interrupt_while_a_program_starts(place: Path, step: str) -> None:
    """Ctrl-C reaches the programs of the start too; the demo ends clean, at any of them."""
    with demo(place, "--nodes", "3", "--rate", "20") as process:
        while not any(step.encode() in command(pid) for pid in processes(str(place))):
            assert process.poll() is None
        for pid in [process.pid, *processes(str(place))]:
            with suppress(ProcessLookupError):
                if os.getpgid(pid) == os.getpgid(process.pid):
                    os.kill(pid, signal.SIGINT)
        output = end(process)
    assert process.returncode in {130, 0}, output
    assert "Traceback" not in output
    assert "error" not in output
    if process.returncode:
        assert output.endswith(f"{NOTHING_BEGUN}; nothing is left of it.\n")
        assert list(place.glob("relayd-demo-*")) == []


@pytest.mark.fault("F47")
@pytest.mark.parametrize("size", ["40k", "40m", "48m", "60m,nr_inodes=200"])
def test_full_disk_is_named(place: Path, size: str) -> None:
    """Wherever the disk becomes full, the demo ends with one line that says so."""
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    small = place / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size={size},mode=1777 none {small}"
    script = f"{mount} && exec {sys.executable} -m relayd demo --nodes 3 --once 100000"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(small), "XDG_CACHE_HOME": str(place / "cache")},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 3, done.stdout
    assert "Traceback" not in done.stderr
    assert re.search(r"^error: .*(No space left on device|disk space)", done.stderr, re.MULTILINE)


def command(pid: int) -> bytes:
    """Return the command line of a process; nothing if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_interrupt_while_starting(place: Path) -> None:
    """Ctrl-C during the start ends everything at once and leaves nothing behind."""
    with demo(place, "--nodes", "500", "--key-bits", "4096") as process:
        wait_for(process, "RSA-4096 keys: 0 of 503")
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert STARTING in output
    assert list(place.glob("relayd-demo-*")) == []


@pytest.mark.fault("F47")
def test_interrupt_of_the_first_moment(place: Path) -> None:
    """Ctrl-C while modules are imported is answered in one line too."""
    with demo(place, "--nodes", "3") as process:
        maps = Path(f"/proc/{process.pid}/maps")
        # Loaded by the demo alone, long before it makes its directory.
        while "_ssl" not in maps.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output = end(process)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == f"{NOTHING_BEGUN}; nothing is left of it."
    assert list(place.glob("relayd-demo-*")) == []


def test_a_dead_daemon_is_reported_in_one_line(place: Path) -> None:
    """If relayd dies, the demo ends with the cause and the path of the log."""
    with demo(place, "--nodes", "3", "--rate", "20") as process:
        wait_for(process, r"stored [1-9]")
        for pid in processes(f"run\0-c\0{place}"):
            os.kill(pid, signal.SIGKILL)
        output = end(process)
    assert process.returncode == 3, output
    assert re.search(r"error: relayd was ended by SIGKILL \(see .*relayd\.log\)", output)
    assert "Traceback" not in output


def test_live_display_in_a_terminal(place: Path) -> None:
    """In a terminal the state is drawn in place, with rates, queue, refusals and last runs."""
    own_end, other_end = pty.openpty()
    with (
        os.fdopen(own_end, "rb", buffering=0) as screen,
        demo(place, "--nodes", "3", "--rate", "10", stdout=other_end) as process,
    ):
        os.close(other_end)
        seen = read_until(screen, b"node-00")
        process.send_signal(signal.SIGTERM)
        text = (seen + read_until(screen, None)).decode()
        assert process.wait(PATIENCE) == 0
    for part in ("run logs", "waiting", "refused", "last runs", "\x1b[", "Stopping: ", BALANCED):
        assert part in text


@pytest.mark.fault("F47")
def test_a_closed_terminal_leaves_nothing(place: Path) -> None:
    """If the terminal is closed while the demo stops, no process and no file is left."""
    own_end, other_end = pty.openpty()
    with demo(place, "--nodes", "3", "--rate", "10", stdout=other_end) as process:
        os.close(other_end)
        with os.fdopen(own_end, "rb", buffering=0) as screen:
            read_until(screen, b"run logs")
            process.send_signal(signal.SIGINT)
            read_until(screen, b"Stopping: ")
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
        process.wait(PATIENCE)
    assert list(place.glob("relayd-demo-*")) == []


def read_until(screen: FileIO, part: bytes | None) -> bytes:
    """Read a terminal until `part` has been seen, or to its end."""
    seen = b""
    # A pseudo-terminal whose other end is closed reads as an error (EIO), not as an end.
    with suppress(OSError):
        while part is None or part not in seen:
            seen += screen.read(65_536)
    return seen
