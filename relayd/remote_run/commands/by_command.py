"""A `Runner` that starts a command of this machine, as `rudder-relayd` does.

    [sudo] COMMAND remote run [-D cond1,cond2] -- host1,host2

The command gets its own session, no input, nothing of relayd's environment but the search path,
and relayd's working directory, so that a relative path means the same here and there. It has ended
when its main process has; children that still hold its standard output are killed then.
"""

import errno
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

import trio

from relayd.remote_run.commands.runner import Exit, Order, Output, RunnerError
from relayd.remote_run.helper.protocol import SEARCH_PATH, agents_command
from relayd.system.printable import printable
from relayd.system.shortage import is_shortage, shortage_of, with_limit
from relayd.telemetry.logs import get_logger

log = get_logger("remote_run")


#: Seconds between SIGTERM and SIGKILL.
TERM_GRACE_S: Final = 2.0
#: Seconds for the kernel to end a killed process. One that root runs through sudo may outlive that.
KILL_GRACE_S: Final = 2.0
#: Seconds for reading, after the command's end, what it printed before.
DRAIN_S: Final = 1.0
#: Bytes of one read, as much as a pipe holds.
_READ: Final = 64 * 1024
#: Pause between two reads of standard error, which is of no interest when it is a flood.
_STDERR_PAUSE_S: Final = 0.005
#: Bytes of standard error that are kept: the end usually gives the reason.
_TAIL: Final = 1024
_SHOWN: Final = 200


class CommandRunner:
    """Runs the configured command.

    Args:
        command: path of the command, as it was written.
        use_sudo: whether to run it through sudo.
    """

    def __init__(self, command: Path | str, *, use_sudo: bool) -> None:
        self._sudo = ["sudo"] if use_sudo else []
        self._command = str(command)
        self._unreaped: list[trio.Process] = []

    def arguments(self, order: Order) -> list[str]:
        """Return the command line for an order."""
        hosts = [target.host for target in order.targets]
        return [*self._sudo, *agents_command(self._command, hosts, order.conditions)]

    async def run(
        self,
        order: Order,
        output: Output,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Exit:
        """See `relayd.remote_run.commands.runner.Runner.run`."""
        self._reap()
        arguments = self.arguments(order)
        process = await self._start(arguments)
        running = _Running(process, output)
        try:
            running.watch()
            task_status.started()
            return await running.follow()
        except OSError as error:  # out of descriptors
            raise _failure(arguments[0], error) from error
        finally:
            if not await running.end():
                self._unreaped.append(process)

    async def _start(self, arguments: list[str]) -> trio.Process:
        try:
            return await trio.lowlevel.open_process(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", SEARCH_PATH), "LANG": "C.UTF-8"},
            )
        except OSError as error:
            raise _failure(arguments[0], error) from error
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            raise _failure(arguments[0], OSError(errno.EAGAIN, str(error))) from error

    def _reap(self) -> None:
        """Reap processes that could not be killed at the end of their run."""
        self._unreaped = [process for process in self._unreaped if process.poll() is None]


def _failure(command: str, error: OSError) -> RunnerError:
    """Log why a command cannot be started, and return a shorter error for the client."""
    log.error("command cannot be started", file=command, detail=with_limit(error))
    why = "the system is short of resources" if shortage_of(error) else "see the log"
    return RunnerError(f"the command could not be started: {why}")


class _Running:
    """A started command. `follow` passes on its output, `end` makes sure that it is gone."""

    def __init__(self, process: trio.Process, output: Output) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdout = process.stdout
        self._stderr = process.stderr
        self._output = output
        self._tail = b""
        self._pidfd: int | None = None
        self._reading = trio.CancelScope()
        self._exited = trio.Event()  # the main process has ended
        self._stderr_ended = trio.Event()
        self._late = 0  # bytes of output after that
        self._reaped = False

    def watch(self) -> None:
        """Open a pidfd, which signals the end of the main process without reaping it.

        Until the process is reaped, its id, which is that of the group, is not used again.
        """
        self._pidfd = os.pidfd_open(self._process.pid)

    async def follow(self) -> Exit:
        """Pass its output on; return when it has ended and all output is passed on."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_stderr)
            nursery.start_soon(self._note_end)
            whole = await self._read_stdout()
            await self._exited.wait()
            with trio.move_on_after(DRAIN_S):
                await self._stderr_ended.wait()
            nursery.cancel_scope.cancel()
        if not whole:
            self._signal(signal.SIGKILL)
        code = await self._reap()
        return Exit(code, printable(self._tail.decode("utf-8", "replace").strip())[-_SHOWN:])

    async def _read_stdout(self) -> bool:
        """Pass standard output on; return False if others hold it open after the command's end."""
        while self._late <= 2 * _READ:
            chunk: bytes | bytearray | None = None
            with trio.CancelScope(deadline=self._read_deadline()) as self._reading:
                chunk = await self._stdout.receive_some(_READ)
            if not chunk:
                return chunk is not None
            self._late += len(chunk) if self._exited.is_set() else 0
            await self._output(bytes(chunk))
        return False

    def _read_deadline(self) -> float:
        return trio.current_time() + DRAIN_S if self._exited.is_set() else math.inf

    async def _read_stderr(self) -> None:
        async for chunk in self._stderr:
            self._tail = (self._tail + chunk)[-_TAIL:]
            await self._output(b"")
            await trio.sleep(_STDERR_PAUSE_S)
        self._stderr_ended.set()

    async def _note_end(self) -> None:
        await self._wait_for_exit()
        self._exited.set()
        self._reading.deadline = self._read_deadline()

    async def _wait_for_exit(self) -> None:
        """Wait for the end of the main process without reaping it."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)

    async def _reap(self) -> int:
        code = await self._process.wait()
        self._reaped = True
        return code

    async def end(self) -> bool:
        """End it with all its children, if it is still running; return whether it is reaped."""
        with trio.move_on_after(TERM_GRACE_S + KILL_GRACE_S, shield=True):
            # First, so that a process relayd may not signal ends at its next line (SIGPIPE).
            await self._stdout.aclose()
            await self._stderr.aclose()
            if not self._reaped and self._signal(signal.SIGTERM):
                with trio.move_on_after(TERM_GRACE_S):
                    await self._wait_for_exit()
                self._signal(signal.SIGKILL)
                await self._reap()
        if self._pidfd is not None:
            os.close(self._pidfd)
        return self._reaped

    def _signal(self, number: signal.Signals) -> bool:
        """Signal the whole group; return False if that is not permitted."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            log.error("cannot end a command that runs as another user", pid=self._process.pid)
            return False
        return True
