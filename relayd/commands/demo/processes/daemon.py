"""relayd as a process, run on a configuration directory."""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

import relayd
from relayd.errors import StartError
from relayd.fleet.peers.urls import API

_START_DEADLINE: Final = 30.0
_STOP_DEADLINE: Final = 20.0
_POLL: Final = 0.05
_ANSWER_TIMEOUT: Final = 5.0


class Daemon:
    """A running relayd.

    Attributes:
        log: its log file.
    """

    def __init__(self, configuration: Path, port: int, door: tuple[str, int], log: Path) -> None:
        self._configuration = configuration
        self._port = port
        self._door = door
        self.log = log
        self._stopping = False
        self._restarted = trio.Event()
        self._process: trio.Process

    async def launch(self) -> None:
        """Start the process; `wait_ready` waits until it answers."""
        package = str(Path(relayd.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        with self.log.open("ab") as output:
            # In its own session, so that Ctrl-C reaches only the demo, which stops it in order.
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "relayd", "run", "-c", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    async def get(self, path: str) -> bytes:
        """Return the body of an answer of its API.

        Raises:
            OSError: it cannot be reached, or did not answer in time.
            http.client.HTTPException: the answer is not HTTP, or its status is not 200.
        """
        return await trio.to_thread.run_sync(self._get, path, abandon_on_cancel=True)

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_TIMEOUT)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise http.client.HTTPException(f"{path} answered {answer.status}")
            return answer.read()
        finally:
            connection.close()

    async def watch(self) -> None:
        """Return when it was stopped by `stop`.

        Raises:
            StartError: it exited by itself.
        """
        self._restarted.set()
        while True:
            process = self._process
            await process.wait()
            await self._restarted.wait()
            if self._stopping:
                return
            if process is self._process:
                raise StartError(self._ending(process.returncode))

    async def kill_and_restart(self) -> None:
        """Kill it (SIGKILL), start it again, and return when it is ready.

        Raises:
            StartError: it did not start.
        """
        self._restarted = trio.Event()
        self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()
            await self.launch()
        self._restarted.set()
        await self.wait_ready()

    async def stop(self) -> int:
        """Stop it (SIGTERM, then SIGKILL) and return its exit code, negative for a signal."""
        self._stopping = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_STOP_DEADLINE):
            return await self._process.wait()
        self._process.kill()
        return await self._process.wait()

    async def wait_ready(self) -> None:
        """Return when its API answers and agents can connect.

        Raises:
            StartError: it exited, or did not answer within half a minute.
        """
        with trio.move_on_after(_START_DEADLINE):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise StartError(self._ending(self._process.returncode))
                await trio.sleep(_POLL)
            return
        raise StartError(f"relayd did not answer within {_START_DEADLINE:.0f} s (see {self.log})")

    async def _answers(self) -> bool:
        try:
            await self.get(f"{API}/system/info")
            # It opens this address last, once it knows the nodes.
            async with await trio.open_tcp_stream(*self._door):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def _ending(self, code: int | None) -> str:
        """Return how it has ended, which its log does not know if it was a signal."""
        if code is not None and code < 0:
            return f"relayd was ended by {signal.Signals(-code).name} (see {self.log})"
        return f"relayd exited with code {code}: {self.last_line()}"

    def last_line(self) -> str:
        """Return the last line of its log, and the path of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        # Without the frame that Python draws around the traceback of an exception group.
        texts = [line.strip(" |+-") for line in lines if line.strip(" |+-")]
        return f"{texts[-1] if texts else 'its log is empty'} (see {self.log})"


@asynccontextmanager
async def open_daemon(
    configuration: Path, port: int, door: tuple[str, int], log: Path
) -> AsyncIterator[Daemon]:
    """Run relayd on a configuration directory until the block ends.

    Owns the process: at the end it is stopped, gracefully at first.

    Args:
        configuration: the directory.
        port: port of its API, as configured.
        door: its address and port for agents, as configured.
        log: file for its output.

    Yields:
        The daemon, once its API answers and agents can connect.

    Raises:
        StartError: it did not start.
    """
    daemon = Daemon(configuration, port, door, log)
    await daemon.launch()
    try:
        await daemon.wait_ready()
        yield daemon
    finally:
        with trio.move_on_after(2 * _STOP_DEADLINE, shield=True):
            await daemon.stop()
