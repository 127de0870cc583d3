"""Signals to a process and its children.

PostgreSQL puts each of its processes into its own session, so signals to a process group do not
reach them.
"""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path


def signal_with_children(parent: int, number: signal.Signals) -> None:
    """Send a signal to a process, then to its children.

    The parent is first, so that once suspended it cannot start another child.

    Args:
        parent: process id.
        number: the signal.
    """
    for pid in (parent, *_children(parent)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_with_children(parent: int, deadline: float) -> None:
    """Kill a process and its children (SIGKILL) and wait until they have ended.

    The parent is first: it would take the end of a child for a crash and start new ones.

    Args:
        parent: process id of a child of this process that has not been waited for.
        deadline: maximum time to wait for each process, in seconds.
    """
    # pidfd_open(2): a descriptor that becomes readable when the process, child or not, ends.
    handles = [handle for pid in (parent, *_children(parent)) if (handle := _handle(pid)) >= 0]
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in handles:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll(deadline * 1000)
        os.close(handle)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # proc_pid_stat(5): the name in parentheses may contain anything; ppid is the second
            # field after it.
            status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(status[1]) == parent:
                found.append(int(entry.name))
    return found


def _handle(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
