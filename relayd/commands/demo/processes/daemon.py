"""relayd as a process of its own, on a configuration directory."""

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

API: Final = "/rudder/relay-api/1"
_START_DEADLINE: Final = 30.0
_STOP_DEADLINE: Final = 20.0
_POLL: Final = 0.05
_ANSWER_TIMEOUT: Final = 5.0


class Daemon:
    """A running relayd.

    Attributes:
        log: the file that it writes to.
    """

    def __init__(self, process: trio.Process, port: int, log: Path) -> None:
        self._process = process
        self._port = port
        self.log = log
        self._stopping = False

    async def get(self, path: str) -> bytes:
        """Return the body of an answer of its API.

        Raises:
            OSError: it cannot be reached, or did not answer in time.
            http.client.HTTPException: the answer is no HTTP or not a success.
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
            StartError: it ended by itself.
        """
        await self._process.wait()
        if not self._stopping:
            raise StartError(f"relayd ended by itself: {self.last_words()}")

    async def stop(self) -> int:
        """Ask it to stop (SIGTERM) and waits; its exit code, negative for a signal."""
        self._stopping = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_STOP_DEADLINE):
            return await self._process.wait()
        self._process.kill()
        return await self._process.wait()

    async def wait_ready(self) -> None:
        """Return when its API answers.

        Raises:
            StartError: it ended, or did not answer within half a minute.
        """
        with trio.move_on_after(_START_DEADLINE):
            while not await self._answers():
                if (code := self._process.poll()) is not None:
                    raise StartError(f"relayd ended with {code}: {self.last_words()}")
                await trio.sleep(_POLL)
            return
        raise StartError(f"relayd did not answer within {_START_DEADLINE:.0f} s, see {self.log}")

    async def _answers(self) -> bool:
        try:
            await self.get(f"{API}/system/info")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def last_words(self) -> str:
        """Return the last line of its log, and where the rest is."""
        lines = self.log.read_text(errors="replace").splitlines()
        # The frame that Python draws around the traceback of a group says nothing.
        said = [line.strip(" |+-") for line in lines if line.strip(" |+-")]
        return f"{said[-1] if said else 'it said nothing'} (see {self.log})"


@asynccontextmanager
async def open_daemon(configuration: Path, port: int, log: Path) -> AsyncIterator[Daemon]:
    """Run relayd on a configuration directory until the block ends.

    Owns the process: at the end it is stopped, gracefully at first.

    Args:
        configuration: its directory.
        port: where its API listens, as configured.
        log: file that its output goes to.

    Yields:
        The daemon, answering.

    Raises:
        StartError: it did not come up.
    """
    package = str(Path(relayd.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in a terminal is for us, who stop things in order.
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "relayd", "run", "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    daemon = Daemon(process, port, log)
    try:
        await daemon.wait_ready()
        yield daemon
    finally:
        with trio.move_on_after(2 * _STOP_DEADLINE, shield=True):
            await daemon.stop()
