"""The root helper of remote runs as a process, its client, and strangers."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from relayd.errors import RelaydError
from relayd.remote_run.commands import by_helper as helper_client
from relayd.remote_run.commands.by_helper import HelperRunner
from relayd.remote_run.commands.runner import Exit, Order, RunnerError, Target
from relayd.remote_run.helper.protocol import ENDED, MAX_REQUEST, STARTED, frame
from tests.support.agent import PRINT_ARGUMENTS, agent, alive, gone, pid_in
from tests.support.helper_socket import HelperSocket, ask, connect, connect_as, open_helper_socket

SEED: Final = 20_260_302
HOSTS: Final = ("a.example", "b.example", "c.example")
GOOD: Final = b'{"hosts": ["a.example"], "conditions": []}\n'


@asynccontextmanager
async def helper(place: Path, script: str, **more: float | str) -> AsyncIterator[HelperSocket]:
    """Yield a socket whose helpers run this script."""
    command = agent(place / "rudder", script)
    async with open_helper_socket(place, command, HOSTS, **more) as unit:  # type: ignore[arg-type]
        yield unit


def order(*hosts: str, conditions: tuple[str, ...] = ()) -> Order:
    """Return an order for nodes named like their hosts."""
    return Order(tuple(Target(host, host) for host in hosts), conditions)


class Output:
    """Takes what a command prints."""

    def __init__(self) -> None:
        self.data = b""

    async def take(self, piece: bytes) -> None:
        """Keep a piece."""
        self.data += piece


@pytest.mark.fault("D.6.3")
async def test_runs_the_command(place: Path) -> None:
    """The helper runs `COMMAND remote run -D … -- HOSTS` and reports how it ended."""
    async with helper(place, f"{PRINT_ARGUMENTS}\necho oops >&2\nexit 3") as unit:
        output = Output()
        wanted = order("a.example", "b.example", conditions=("one", "two"))
        end = await HelperRunner(unit.path).run(wanted, output.take)
        assert end == Exit(3, "oops")
        assert output.data.decode().split("\n") == [
            "remote",
            "run",
            "-D",
            "one,two",
            "--",
            "a.example,b.example",
            "",
        ]
        await unit.all_gone()
        begun, over = unit.said()
        assert begun.startswith(f"<5>remote run for uid {os.getuid()}, pid {os.getpid()}: 2 hosts")
        assert "a.example,b.example" in begun
        assert "one,two" in begun
        assert over.startswith("<5>remote run over: ended, code 3")


@pytest.mark.fault("D.4.3")
async def test_command_gets_an_environment_of_its_own(place: Path) -> None:
    """Neither variables nor descriptors of the helper reach the command."""
    # No pipe behind `ls`: while the shell makes one, it has it open itself.
    script = "env | cut -d= -f1 | sort | tr '\\n' ' '; ls /proc/$$/fd"
    async with helper(place, script) as unit:
        output = Output()
        await HelperRunner(unit.path).run(order("a.example"), output.take)
        words = output.data.decode().split()
        assert {word for word in words if not word.isdecimal()} <= {
            "HOME",
            "LANG",
            "PATH",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "_",
        }
        # Standard input, output and error, and the script itself.
        assert len([word for word in words if word.isdecimal()]) <= 4


async def test_output_streams_and_any_bytes_pass(place: Path) -> None:
    """Output comes while the command runs, and every byte of a large one arrives."""
    go = place / "go"
    script = f"printf first; while [ ! -e {go} ]; do sleep 0.02; done; head -c 3000000 /dev/zero"
    async with helper(place, script) as unit:
        seen = Output()

        async def take(piece: bytes) -> None:
            await seen.take(piece)
            go.touch()

        assert await HelperRunner(unit.path).run(order("a.example"), take) == Exit(0)
        assert seen.data == b"first" + bytes(3_000_000)


async def test_slow_client_slows_the_command(place: Path) -> None:
    """While nobody takes its output, the command waits and the helper stores none of it."""
    mark = place / "mark"
    async with helper(place, f"head -c 10000000 /dev/zero; touch {mark}") as unit:
        waiting = trio.Event()
        go_on = trio.Event()
        size = 0

        async def take(piece: bytes) -> None:
            nonlocal size
            waiting.set()
            await go_on.wait()
            size += len(piece)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(HelperRunner(unit.path).run, order("a.example"), take)
            await waiting.wait()
            assert not mark.exists()
            go_on.set()
        assert size == 10_000_000
        assert mark.exists()


@pytest.mark.fault("A16")
@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
async def test_cancelled_run_ends_the_command(place: Path, trap: str) -> None:
    """When relayd gives a run up, or dies, the command ends with its children."""
    pid_file = place / "pid"
    script = f"{trap} sleep 1000 & echo $! > {pid_file}; echo up; wait; sleep 1000"
    async with helper(place, script) as unit:
        with trio.CancelScope() as scope:

            async def take(_piece: bytes) -> None:
                scope.cancel()

            await HelperRunner(unit.path).run(order("a.example"), take)
        assert scope.cancelled_caught
        await unit.all_gone()
        await gone(await pid_in(pid_file))
        assert "over: client gone" in unit.said()[-1]


@pytest.mark.fault("A16")
async def test_deadline_ends_the_command(place: Path) -> None:
    """The helper has a deadline of its own, whatever its client does."""
    pid_file = place / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}; echo begun; wait"
    async with helper(place, script, deadline_s=1.0) as unit:
        output = Output()
        end = await HelperRunner(unit.path).run(order("a.example"), output.take)
        assert end.code == -15
        assert output.data == b"begun\n"
        await gone(await pid_in(pid_file))
        assert "over: deadline" in unit.said()[-1]


@pytest.mark.fault("F51")
@pytest.mark.parametrize(
    ("hosts", "script"),
    [
        (HOSTS[:1], "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i; done"),
        (HOSTS[:1], "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i >&2; done; echo 6"),
        (HOSTS, "sleep 1.2; echo 6"),
    ],
    ids=["output", "errors", "one host after the other"],
)
async def test_progress_puts_the_deadline_off(
    place: Path, hosts: tuple[str, ...], script: str
) -> None:
    """A command that shows progress, or has several hosts, takes longer than the deadline."""
    async with helper(place, script, deadline_s=0.6) as unit:
        output = Output()
        assert (await HelperRunner(unit.path).run(order(*hosts), output.take)).code == 0
        assert output.data.endswith(b"6\n")


@pytest.mark.fault("F3")
async def test_a_connection_closed_without_an_answer_is_tried_again(place: Path) -> None:
    """While the service manager has too many helpers, a run waits instead of being lost."""
    path = place / "helper"
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()

        async def serve() -> None:
            for answer in (b"", b"", frame(STARTED) + frame(ENDED, b'{"code":0}')):
                connection, _ = await listener.accept()
                async with trio.SocketStream(connection) as stream:
                    if answer:
                        await stream.receive_some()
                        await stream.send_all(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert await HelperRunner(path).run(order("a.example"), Output().take) == Exit(0)


@asynccontextmanager
async def says(place: Path, answer: bytes) -> AsyncIterator[Path]:
    """Be a helper that answers one request with these bytes and ends; yield its socket."""
    path = place / "helper"
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()

        async def serve() -> None:
            connection, _ = await listener.accept()
            async with trio.SocketStream(connection) as stream:
                await stream.receive_some()
                await stream.send_all(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield path


@pytest.mark.parametrize("said", [b"{", b'{"code":0,"detail":"\xff"}', b'{"x":' * 10_000])
async def test_an_end_that_is_not_understood_is_none(place: Path, said: bytes) -> None:
    """What a broken helper says ends its own run, as if the connection had broken, and no other."""
    async with says(place, frame(STARTED) + frame(ENDED, said)) as path:
        end = await HelperRunner(path).run(order("a.example"), Output().take)
    assert end.code == -signal.SIGKILL


@pytest.mark.fault("F4")
async def test_the_command_of_root_has_an_absolute_path(place: Path) -> None:
    """A path that depends on a working directory is refused when the helper starts."""
    program = [sys.executable, "-m", "relayd.remote_run.helper.main", "--user", "0"]
    done = await trio.run_process(
        [*program, "--command", "bin/rudder"], capture_stderr=True, check=False
    )
    assert done.returncode == 2
    assert b"argument --command: must be an absolute path: root runs it" in done.stderr


async def test_children_that_hold_the_output_are_ended(place: Path) -> None:
    """The run is over when the command is, although a child of it still holds its output."""
    pid_file = place / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}; echo done"
    async with helper(place, script) as unit:
        output = Output()
        assert await HelperRunner(unit.path).run(order("a.example"), output.take) == Exit(0)
        assert output.data == b"done\n"
        await gone(await pid_in(pid_file))


@pytest.mark.fault("D.6.3")
async def test_hosts_that_are_no_nodes_are_left_out(place: Path) -> None:
    """Only hosts of the nodes list are run on; without any there is no command."""
    async with helper(place, PRINT_ARGUMENTS) as unit:
        output = Output()
        await HelperRunner(unit.path).run(order("a.example", "evil.example"), output.take)
        assert output.data.splitlines()[-1] == b"a.example"
        with pytest.raises(RunnerError):
            await HelperRunner(unit.path).run(order("evil.example"), output.take)
        request = b'{"hosts": ["evil.example"], "conditions": []}\n'
        assert await ask(connect(unit.path), request) == [(b"R", b"no host is in the nodes list")]


async def test_odd_host_name_costs_no_other(place: Path) -> None:
    """A node whose name the helper would refuse is left out by relayd; the others are run."""
    async with helper(place, PRINT_ARGUMENTS) as unit:
        output = Output()
        wanted = order("näme.example", "a.example", "-x")
        assert await HelperRunner(unit.path).run(wanted, output.take) == Exit(0)
        assert output.data.splitlines()[-1] == b"a.example"
        with pytest.raises(RunnerError):
            await HelperRunner(unit.path).run(order("-x"), Output().take)


@pytest.mark.fault("D.6.3")
async def test_other_account_is_refused(place: Path) -> None:
    """Another account gets nothing run, and an audit line names it."""
    mark = place / "mark"
    async with helper(place, f"touch {mark}", user=str(os.getuid() + 1)) as unit:
        assert await ask(connect(unit.path), GOOD) == [(b"R", b"not for this user")]
        await unit.all_gone()
        assert f"requested by uid {os.getuid()}, pid {os.getpid()}" in unit.said()[0]
    assert not mark.exists()


@pytest.mark.fault("D.6.3")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another account")
async def test_helper_of_root_serves_one_account_only(place: Path) -> None:
    """The helper runs as root for the service's account, and for nobody else, root included."""
    async with helper(place, "id -u", user="4321") as unit:
        unit.path.chmod(0o666)
        answers = {uid: await ask(connect_as(uid, unit.path), GOOD) for uid in (4321, 4322)}
        assert [kind for kind, _ in answers[4321]] == [b"S", b"O", b"E"]
        assert answers[4321][1] == (b"O", b"0\n")
        assert answers[4322] == [(b"R", b"not for this user")]
        assert await ask(connect(unit.path), GOOD) == [(b"R", b"not for this user")]


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="systemd-socket-activate is not installed",
)
async def test_systemd_starts_the_helper(place: Path) -> None:
    """Started for each connection by systemd's own code, the helper works as well."""
    nodes = place / "nodeslist.json"
    nodes.write_text('{"a": {"hostname": "a.example"}}')
    path = place / "helper.sock"
    command = [
        *("systemd-socket-activate", "--accept", "--inetd", "--listen", str(path)),
        *(sys.executable, "-m", "relayd.remote_run.helper.main", "--user", str(os.getuid())),
        *("--command", str(agent(place / "rudder", PRINT_ARGUMENTS)), "--nodes-list", str(nodes)),
    ]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    async with process.stderr as said:
        with trio.fail_after(60):
            assert b"Listening on" in await said.receive_some()
        try:
            for _ in range(2):
                output = Output()
                end = await HelperRunner(path).run(order("a.example"), output.take)
                assert end == Exit(0)
                assert output.data == b"remote\nrun\n--\na.example\n"
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_account_that_does_not_exist(place: Path) -> None:
    """A helper whose account is missing serves no one."""
    async with helper(place, PRINT_ARGUMENTS, user="no-such-account") as unit:
        assert await ask(connect(unit.path), GOOD) == [
            (b"R", b"the account that may connect does not exist")
        ]


@pytest.mark.fault("D.6.3", "A13")
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.torture)])
async def test_hostile_requests_run_nothing(place: Path, count: int) -> None:
    """Mutants of a request: each is refused, unless it is a request again."""
    moments = random.Random(SEED)
    mark = place / "mark"
    async with helper(place, f'echo "$@" >> {mark}') as unit:
        limit = trio.CapacityLimiter(4)

        async def try_one(data: bytes) -> None:
            async with limit:
                answer = await ask(connect(unit.path), data)
            assert [kind for kind, _ in answer] in ([b"R"], [b"S", b"E"]), data

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(try_one, mutant(moments))
        lines = mark.read_text().splitlines() if mark.exists() else []
        for line in lines:
            *words, hosts = line.split(" ")
            assert words in (["remote", "run", "--"], ["remote", "run", "-D", words[-2], "--"])
            assert set(hosts.split(",")) <= set(HOSTS)
        assert not [line for line in unit.said() if not line.startswith("<")]


def mutant(moments: random.Random) -> bytes:
    """Return a request with one to four bytes changed, a piece doubled, or hostile text put in."""
    data = bytearray(b'{"hosts": ["a.example", "b.example"], "conditions": ["c1"]}')
    for _ in range(moments.randint(1, 4)):
        place = moments.randrange(len(data))
        match moments.randrange(4):
            case 0:
                data[place] = moments.randrange(256)
            case 1:
                data[place:place] = data[: moments.randrange(len(data))]
            case 2:
                del data[place]
            case _:
                hostile = [b"\x00", b"\n", b";id", b"$(id)", b"--", b'"],"x":["', b"\\u0000", b","]
                data[place:place] = moments.choice(hostile)
    return bytes(data) + b"\n"


@pytest.mark.fault("D.6.3")
async def test_endless_request_is_refused(place: Path) -> None:
    """A request is bounded, with or without an end."""
    async with helper(place, PRINT_ARGUMENTS) as unit:
        for request in (b" " * (MAX_REQUEST + 1), b"x" * MAX_REQUEST + b"\n", GOOD + GOOD):
            answer = await ask(connect(unit.path), request)
            assert [kind for kind, _ in answer] in ([b"R"], []), request[:20]


async def test_client_that_says_nothing_more_than_hello(place: Path) -> None:
    """A client that closes before it has asked leaves nothing behind."""
    async with helper(place, PRINT_ARGUMENTS) as unit:
        for request in (b"", b'{"hosts"'):
            async with await trio.open_unix_socket(str(unit.path)) as stream:
                await stream.send_all(request)
        # One after the other: this one is answered after those have been accepted.
        assert (await ask(connect(unit.path), GOOD))[0] == (b"S", b"")
        await unit.all_gone()
        assert [helper.returncode for helper in unit.helpers] == [0, 0, 0]


@pytest.mark.parametrize(
    "script",
    ["", pytest.param("exit 0", id="not executable")],
)
async def test_command_that_cannot_be_started(place: Path, script: str) -> None:
    """A missing command is a failure for the client, and a line for the operator."""
    async with helper(place, script) as unit:
        if script:
            (place / "rudder").chmod(0o600)
        else:
            (place / "rudder").unlink()
        with pytest.raises(RunnerError):
            await HelperRunner(unit.path).run(order("a.example"), Output().take)
        assert any("rudder: " in line for line in unit.said())


async def test_no_helper(place: Path) -> None:
    """Without a socket, or without a listener behind it, the run fails at once and says why."""
    path = place / "nobody"
    with pytest.raises(RelaydError, match="could not be started"):
        await HelperRunner(path).run(order("a.example"), Output().take)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(RelaydError, match="could not be started"):
        await HelperRunner(path).run(order("a.example"), Output().take)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400 Bad", None),
        (b"O\x00\x00\x00\x01x", None),
        (b"S\x00\x00\x00\x00", helper_client._LOST),
        (b"S\x00\x00\x00\x00O\x00\x00\x00\x09cut", helper_client._LOST),
        (b"S\x00\x00\x00\x00O\xff\xff\xff\xffx", helper_client._LOST),
    ],
)
async def test_helper_that_dies(place: Path, answer: bytes, expected: Exit | None) -> None:
    """A helper that ends early, or is something else, is a failure and never hangs the run."""
    async with says(place, answer) as path:
        run = partial(HelperRunner(path).run, order("a.example"), Output().take)
        if expected is None:
            with pytest.raises(RunnerError):
                await run()
        else:
            assert await run() == expected


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_twenty_runs_leave_nothing(place: Path) -> None:
    """Runs one after the other leave neither descriptors nor processes behind."""
    async with helper(place, f"echo $$ > {place}/pid") as unit:
        runner = HelperRunner(unit.path)
        await runner.run(order("a.example"), Output().take)
        await unit.all_gone()
        before = descriptors()
        for _ in range(20):
            await runner.run(order("a.example"), Output().take)
        await unit.all_gone()
        assert descriptors() == before
        assert not alive(await pid_in(place / "pid"))
