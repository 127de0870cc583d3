"""The command that the root helper runs for a client, from its start to its end.

This process has one thread with one poll(2), and does nothing else.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

from relayd.remote_run.helper.limits import PROGRESS_BYTES, Limits
from relayd.remote_run.helper.protocol import ENDED, MAX_CONTENT, OUTPUT, SHOWN, STARTED, frame

if TYPE_CHECKING:
    import subprocess

#: Seconds for the client to send its request, and to take the last frames.
TALK_TIMEOUT_S: Final = 10.0
#: Seconds between SIGTERM and SIGKILL.
TERM_GRACE_S: Final = 2.0
#: Seconds without output, after the command's end, until reading its output stops.
DRAIN_S: Final = 1.0
_TAIL: Final = 1024


class ClientGoneError(Exception):
    """The client has disconnected."""


class ClientCommand:
    """A started command and the client that waits for it.

    Output is sent to the client before more is read, so a slow client slows the command down.

    Args:
        client: the connection.
        process: just started, leader of a session, with pipes for standard output and error.
        limits: how long it may run.
    """

    def __init__(
        self, client: socket.socket, process: "subprocess.Popen[bytes]", limits: Limits
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._client = client
        self._process = process
        self._stdout = process.stdout.fileno()
        self._stderr = process.stderr.fileno()
        self._wakeup = _wakeup_at_child_end()
        self._limits = limits
        self._end = time.monotonic() + limits.total
        self._progress_left = PROGRESS_BYTES
        self._deadline = min(self._end, time.monotonic() + limits.silence)
        self._open = {self._stdout, self._stderr}
        self._late = 0
        self._unsent = frame(STARTED)
        self._tail = b""
        client.setblocking(False)

    def follow(self) -> str:
        """Pass the output on; return how the command ended.

        Raises:
            ClientGoneError: the client closed the connection, or sent more than its request.
        """
        over = False
        while not (over and not self._unsent and self._stdout not in self._open):
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "deadline"
            draining = over and not self._unsent
            ready = self._wait(min(left, DRAIN_S) if draining else left)
            # Children that are still running may hold the pipe, and even keep printing.
            if (draining and not ready) or self._late > 2 * MAX_CONTENT:
                return "ended"
            for descriptor in ready:
                self._serve(descriptor, over=over)
            over = over or self._has_ended()
        return "ended"

    def _wait(self, seconds: float) -> list[int]:
        poll = select.poll()
        poll.register(self._client, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        poll.register(self._wakeup, select.POLLIN)
        for descriptor in self._open:
            if descriptor == self._stderr or not self._unsent:
                poll.register(descriptor, select.POLLIN)
        found = poll.poll(seconds * 1000)
        client = self._client.fileno()
        if any(number == client and event & ~select.POLLOUT for number, event in found):
            raise ClientGoneError
        return [number for number, _ in found]

    def _serve(self, descriptor: int, *, over: bool) -> None:
        if descriptor == self._wakeup.fileno():
            self._wakeup.recv(MAX_CONTENT)
        elif descriptor == self._client.fileno():
            self._send()
        elif descriptor == self._stderr:
            self._read_stderr()
        else:
            data = os.read(descriptor, MAX_CONTENT)
            if not data:
                self._open.discard(descriptor)
                return
            self._late += len(data) if over else 0
            self._unsent = frame(OUTPUT, data)
            self._note_progress(len(data))

    def _note_progress(self, size: int) -> None:
        """Put the deadline off, unless the command only floods its client."""
        self._progress_left -= size
        if self._progress_left >= 0:
            self._deadline = min(self._end, time.monotonic() + self._limits.silence)

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._client.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise ClientGoneError from error

    def _read_stderr(self) -> None:
        data = os.read(self._stderr, MAX_CONTENT)
        self._tail = (self._tail + data)[-_TAIL:]
        if not data:
            self._open.discard(self._stderr)
            return
        self._note_progress(len(data))
        self._unsent = self._unsent or frame(OUTPUT)  # a sign of life

    def _has_ended(self) -> bool:
        """Return whether the main process has ended; it is not reaped, so its id stays in use."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def end(self) -> int:
        """End what is still running; return the exit code, or minus the number of the signal."""
        if not self._has_ended():
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + TERM_GRACE_S
            while not self._has_ended() and (left := deadline - time.monotonic()) > 0:
                if select.select([self._wakeup], [], [], left)[0]:
                    self._wakeup.recv(MAX_CONTENT)
        self._signal(signal.SIGKILL)
        return self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def send_exit(self, code: int) -> None:
        """Send the rest of the output, the exit code and the end of standard error."""
        os.set_blocking(self._stderr, False)
        with contextlib.suppress(BlockingIOError):
            self._read_stderr()
        text = self._tail.decode("utf-8", "replace").strip()
        line = "".join(char if char.isprintable() else " " for char in text)[-SHOWN:]
        self._client.settimeout(TALK_TIMEOUT_S)
        verdict = json.dumps({"code": code, "detail": line}).encode()
        try:
            self._client.sendall(self._unsent + frame(ENDED, verdict))
        except OSError as error:
            raise ClientGoneError from error


def _wakeup_at_child_end() -> socket.socket:
    """Return a socket that becomes readable when a child has, or may have, ended."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader
