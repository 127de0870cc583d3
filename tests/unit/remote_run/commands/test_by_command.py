"""Commands that are real scripts: started, followed and ended."""

import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from relayd.config.main_conf import RemoteRunSettings
from relayd.config.toml import build
from relayd.remote_run.commands.by_command import CommandRunner
from relayd.remote_run.commands.runner import Exit, Order, RunnerError, Target
from tests.support.agent import PRINT_ARGUMENTS, Commands, agent, alive, gone, pid_in
from tests.support.http import descriptors

HOSTS = (Target("n1", "host1.test"), Target("n2", "host2.test"))
Output = Callable[[bytes], Awaitable[None]]


@pytest.fixture
def commands() -> Commands:
    """The commands that are started by the test."""
    return Commands()


async def _nothing(_data: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def _run(
    command: Path | str, *conditions: str, output: Output = _nothing, use_sudo: bool = False
) -> Exit:
    with trio.fail_after(60):
        runner = CommandRunner(command, use_sudo=use_sudo)
        return await runner.run(Order(HOSTS, conditions), output)


async def _printed(command: Path | str, *conditions: str, use_sudo: bool = False) -> bytes:
    pieces: list[bytes] = []

    async def keep(data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(data)

    await _run(command, *conditions, output=keep, use_sudo=use_sudo)
    return b"".join(pieces)


@pytest.mark.history(50)
async def test_arguments_are_those_of_the_original(tmp_path: Path) -> None:
    """The command gets conditions and host names as `rudder-relayd` passes them."""
    command = agent(tmp_path / "rudder", PRINT_ARGUMENTS)
    assert await _printed(command) == b"remote\nrun\n--\nhost1.test,host2.test\n"
    assert await _printed(command, "c1", "c2") == (
        b"remote\nrun\n-D\nc1,c2\n--\nhost1.test,host2.test\n"
    )


@pytest.mark.history(51)
async def test_sudo_gets_the_command_as_one_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sudo, the path of the command is one argument, even if it has blanks."""
    agent(tmp_path / "sudo", PRINT_ARGUMENTS)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    printed = await _printed(Path("/opt/some where/rudder"), use_sudo=True)
    assert printed == b"/opt/some where/rudder\nremote\nrun\n--\nhost1.test,host2.test\n"


async def test_the_environment_is_minimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets only the search path of relayd's environment, and empty input."""
    monkeypatch.setenv("PGPASSWORD", "canary")
    printed = await _printed(agent(tmp_path / "rudder", "cat; /usr/bin/env; pwd"))
    names = {line.partition(b"=")[0] for line in printed.splitlines()}
    here = str(Path.cwd()).encode()
    assert names - {b"PWD", b"_", b"SHLVL", b"OLDPWD"} == {b"PATH", b"LANG", here}


@pytest.mark.fault("F4")
@pytest.mark.parametrize("written", ["bin/rudder", "./rudder", "../here/rudder", "rudder"])
async def test_a_command_starts_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """A path that is relative, of the command or of a file of it, is found from here."""
    here = tmp_path / "here"
    (here / "bin").mkdir(parents=True)
    for place in (here / "bin" / "rudder", here / "rudder"):
        agent(place, "cat file; pwd; echo more > written")
    (here / "file").write_text("content\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    table = build(Path("main.conf"), {"command": written}, RemoteRunSettings)[0]
    assert await _printed(table.command) == f"content\n{here}\n".encode()
    assert (here / "written").read_text() == "more\n"


async def test_output_arrives_while_the_command_runs(tmp_path: Path) -> None:
    """A line is passed on before the command prints the next one."""
    os.mkfifo(tmp_path / "go")
    command = agent(tmp_path / "rudder", f"echo one; read line < {tmp_path}/go; echo two")
    lines: list[bytes] = []

    async def take(data: bytes) -> None:
        lines.append(data)
        if data == b"one\n":
            await trio.to_thread.run_sync((tmp_path / "go").write_text, "go\n")

    assert await _run(command, output=take) == Exit(0)
    assert lines == [b"one\n", b"two\n"]


async def test_the_exit_has_code_and_end_of_stderr(tmp_path: Path) -> None:
    """A failed command is reported with its exit code and the end of its standard error."""
    script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo 'sudo: \033[1mno' >&2; exit 7"
    ended = await _run(agent(tmp_path / "rudder", script))
    assert ended.code == 7
    assert ended.detail.endswith("xsudo: \\x1b[1mno")
    assert len(ended.detail) == 200


@pytest.mark.fault("A16")
@pytest.mark.parametrize(
    "script",
    [
        "trap '' TERM; sleep 1000 & echo $! > {pid}; echo on; wait; wait; sleep 1000",
        "sleep 1000 & echo $! > {pid}; echo on; wait",
        "trap 'exit 0' TERM; (trap '' TERM; sleep 1000) & echo $! > {pid}; echo on; wait",
    ],
    ids=["ignores TERM", "ends at TERM", "child ignores TERM"],
)
async def test_a_command_is_ended_with_its_children(
    commands: Commands, tmp_path: Path, script: str
) -> None:
    """After cancellation the command and its group are gone, whatever signals they ignore."""
    command = agent(tmp_path / "rudder", script.format(pid=tmp_path / "pid"))
    with trio.CancelScope() as scope:

        async def stop(_data: bytes) -> None:
            scope.cancel()
            await trio.lowlevel.checkpoint()

        await _run(command, output=stop)
    assert scope.cancelled_caught
    await gone(await pid_in(tmp_path / "pid"))
    assert not commands()


async def test_a_child_that_keeps_the_pipe_does_not_hold_the_run(tmp_path: Path) -> None:
    """A child that holds standard output after the command's end is killed."""
    command = agent(tmp_path / "rudder", f"sleep 1000 & echo $! > {tmp_path / 'pid'}; echo end")
    assert await _printed(command) == b"end\n"
    await gone(await pid_in(tmp_path / "pid"))


async def test_a_child_that_floods_after_the_end_is_ended(tmp_path: Path) -> None:
    """A child that keeps printing after the command's end is cut off."""
    command = agent(tmp_path / "rudder", f"yes & echo $! > {tmp_path / 'pid'}")
    assert (await _run(command)).code == 0
    await gone(await pid_in(tmp_path / "pid"))


async def test_a_detached_child_without_the_pipe_is_left_alone(tmp_path: Path) -> None:
    """A process that the command leaves behind on purpose keeps running."""
    script = f"sleep 1000 > /dev/null 2>&1 & echo $! > {tmp_path / 'pid'}"
    assert (await _run(agent(tmp_path / "rudder", script))).code == 0
    pid = await pid_in(tmp_path / "pid")
    assert alive(pid)
    os.kill(pid, 9)


@pytest.mark.fault("A19")
@pytest.mark.parametrize("mode", [None, 0o600])
async def test_a_command_that_cannot_be_started(tmp_path: Path, mode: int | None) -> None:
    """A missing or non-executable command is an error that does not reveal its path."""
    command = tmp_path / "rudder"
    if mode is not None:
        agent(command, PRINT_ARGUMENTS).chmod(mode)
    with capture_logs() as logs, pytest.raises(RunnerError) as caught:
        await _run(command)
    assert str(caught.value) == "the command could not be started: see the log"
    assert [entry["file"] for entry in logs] == [str(command)]


@pytest.mark.fault("A19")
async def test_no_descriptors_for_a_command(commands: Commands, tmp_path: Path) -> None:
    """Without descriptors for its pipes a command is refused, and nothing leaks."""
    command = agent(tmp_path / "rudder", "echo hi")
    assert (await _run(command)).code == 0
    before, limits = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    refusals: list[str] = []
    while True:
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + len(refusals) + 1, limits[1]))
        try:
            with capture_logs():
                await _run(command)
            break
        except RunnerError as error:
            refusals.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(refusals) >= 5
    assert set(refusals) == {"the command could not be started: the system is short of resources"}
    assert descriptors() == before
    assert not commands()


@pytest.mark.fault("A18")
async def test_a_thousand_commands_leave_nothing(commands: Commands, tmp_path: Path) -> None:
    """After a thousand commands no process and no descriptor is left."""
    command = agent(tmp_path / "rudder", "exit 0")
    await _run(command)
    before, limiter = descriptors(), trio.CapacityLimiter(10)

    async def one() -> None:
        async with limiter:
            assert (await _run(command)).code == 0

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(one)
    assert descriptors() == before
    assert not commands()
