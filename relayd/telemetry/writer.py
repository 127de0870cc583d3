"""The thread that writes log lines, so that a slow or dead reader never delays the caller.

Callers put lines into a bounded queue and go on. A line is dropped and counted when the queue is
full or the line cannot be written; the count is logged as soon as writing works again.
"""

import math
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from relayd.errors import TransientStartError
from relayd.system.shortage import shortage_of

#: Bytes of queued lines: 4 MiB, about 20,000 lines, whatever happens to the reader.
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
_BATCH_BYTES: Final = 64 * 1024
#: How long a stop waits for a reader that does not read.
_FLUSH_S: Final = 2.0


class LogWriter:
    """Owns the thread and the queue; not the file descriptor.

    Attributes:
        fd: the file descriptor to write to; may be changed at any time.
        dropped: number of lines dropped since the start.
    """

    def __init__(
        self,
        fd: int,
        notice: Callable[[int], bytes],
        due: Callable[[float], bytes],
        next_due: Callable[[], float | None],
    ) -> None:
        """Prepare the writer; `start` starts its thread.

        Args:
            fd: a file descriptor, blocking or not.
            notice: renders the line that reports how many were dropped.
            due: returns the summary lines due at a time (seconds, monotonic clock).
            next_due: returns the time at which `due` will return some, or None.
        """
        self.fd = fd
        self.dropped = 0
        self._notice = notice
        self._due = due
        self._next_due = next_due
        self._unreported = 0
        self._torn = False
        self._waiting = 0
        self._ends: float | None = None
        # put() of this queue is re-entrant, and so is the lock, because finalisers may log.
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            TransientStartError: the system cannot start one.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            if (shortage := shortage_of(error)) is None:
                raise
            raise TransientStartError(f"cannot start: {shortage}") from None

    def put(self, line: bytes) -> None:
        """Queue a line, or drop it; never blocks."""
        with self._lock:
            if self._waiting + len(line) > MAX_WAITING_BYTES:
                self._drop(line)
                return
            self._waiting += len(line)
        self._lines.put(line)

    def wake(self) -> None:
        """Make the thread call `next_due` again."""
        self._lines.put(b"")

    def close(self) -> None:
        """Write the queued lines, for at most 2 seconds, and end the thread."""
        self._ends = time.monotonic() + _FLUSH_S
        self.wake()
        self._thread.join(_FLUSH_S)

    def _run(self) -> None:
        while True:
            batch = self._gather()
            batch += self._due(math.inf if self._ends is not None else time.monotonic())
            if batch:
                self._deliver(batch)
            if self._ends is not None and self._lines.empty():
                return

    def _gather(self) -> bytes:
        """Wait for a line and take the lines behind it, up to a good size for one write."""
        lines: list[bytes] = []
        size = 0
        try:
            while size < _BATCH_BYTES:
                line = self._lines.get(block=not lines, timeout=self._patience())
                if not line:
                    break
                lines.append(line)
                size += len(line)
        except queue.Empty:
            pass
        with self._lock:
            self._waiting -= size
        return b"".join(lines)

    def _patience(self) -> float | None:
        if self._ends is not None:
            return 0.0
        due = self._next_due()
        return None if due is None else max(0.0, due - time.monotonic())

    def _deliver(self, batch: bytes) -> None:
        with self._lock:
            unreported = self._unreported
        if unreported and not self._write(self._notice(unreported)):
            with self._lock:
                self._unreported -= unreported
        rest = self._write(batch)
        if rest:
            self._drop(rest)

    def _write(self, data: bytes) -> bytes:
        """Write as much as possible and return the rest."""
        # A line that was cut off must not swallow the beginning of the next one.
        whole = b"\n" + data if self._torn else data
        position = 0
        while position < len(whole):
            try:
                position += os.write(self.fd, whole[position:])
            except BlockingIOError:
                if not self._wait_writable():
                    break
            except OSError:
                # The reader is gone, the disk is full, …: there is no way to log that.
                break
        if position:
            self._torn = not whole.endswith(b"\n", 0, position)
        return whole[position:]

    def _wait_writable(self) -> bool:
        """Wait until a non-blocking descriptor is writable; return False when time is up."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.poll(100)
        return self._ends is None or time.monotonic() < self._ends

    def _drop(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        with self._lock:
            self.dropped += count
            self._unreported += count
