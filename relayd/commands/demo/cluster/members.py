"""The processes of a cluster: started, killed, frozen and thawed."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from relayd.commands.demo.postgres.programs import PostgresAccount
from relayd.commands.demo.processes.children import kill_with_children, signal_with_children

_STOP_DEADLINE: Final = 20.0


class Child:
    """A program of the cluster.

    Attributes:
        name: what it is.
        log: its output; each start appends to it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        account: PostgresAccount,
        environment: Mapping[str, str],
    ) -> None:
        """Prepare a program; nothing is started yet.

        Args:
            name: what it is, and the name of its log.
            command: the program and its arguments.
            directory: where it runs and logs.
            account: whom it runs as.
            environment: all of its environment.
        """
        self.name = name
        self.log = directory / f"{name}.log"
        self._command = [str(word) for word in command]
        self._directory = directory
        self._account = account
        self._environment = dict(environment)
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None if it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it; do nothing if it runs."""
        if self.pid is not None:
            return
        with self.log.open("ab") as output:
            # In its own session, so that Ctrl-C reaches only the demo, which stops it in order.
            self._process = await trio.lowlevel.open_process(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
                **self._account.credentials(),
            )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; do nothing if it does not run."""
        if (pid := self.pid) is not None:
            signal_with_children(pid, number)

    async def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it has ended."""
        if self._process is not None and (pid := self.pid) is not None:
            await trio.to_thread.run_sync(kill_with_children, pid, _STOP_DEADLINE)
            await self._process.wait()


class Machine:
    """A database machine: Patroni, and the PostgreSQL that it starts.

    Attributes:
        name: its name in the cluster.
        port: TCP port of PostgreSQL on 127.0.0.1.
        api: TCP port of Patroni's REST API.
        patroni: the process.
        data: PostgreSQL's data directory.
    """

    def __init__(self, name: str, port: int, api: int, patroni: Child, data: Path) -> None:
        self.name = name
        self.port = port
        self.api = api
        self.patroni = patroni
        self.data = data

    @property
    def postmaster(self) -> int | None:
        """Process id of PostgreSQL; None if it does not run."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            # The file stays when the process is killed, and the number may be given again.
            if os.fsencode(self.data) in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def kill_postmaster(self) -> None:
        """Kill PostgreSQL's first process (SIGKILL); the others notice and end."""
        if (pid := self.postmaster) is not None:
            os.kill(pid, signal.SIGKILL)

    async def kill(self) -> None:
        """Kill everything on the machine at once."""
        self.thaw()
        await self.patroni.kill()
        if (pid := self.postmaster) is not None:
            await trio.to_thread.run_sync(kill_with_children, pid, _STOP_DEADLINE)

    def freeze(self) -> None:
        """Suspend everything on the machine, like a virtual machine that is paused."""
        self.patroni.signal(signal.SIGSTOP)
        if (pid := self.postmaster) is not None:
            signal_with_children(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume everything on the machine; PostgreSQL first, which is the worst case."""
        if (pid := self.postmaster) is not None:
            signal_with_children(pid, signal.SIGCONT)
        self.patroni.signal(signal.SIGCONT)
