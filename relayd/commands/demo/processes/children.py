"""A process and its children, signalled together.

PostgreSQL puts each of its processes into a session of its own, so that signals to a process
group do not reach them.
"""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path


def signal_with_children(parent: int, number: signal.Signals) -> None:
    """Send a signal to a process, then to its children.

    The parent comes first, so that one that is stopped starts no new child behind our back.

    Args:
        parent: process id.
        number: the signal.
    """
    for pid in (parent, *_children(parent)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_with_children(parent: int, deadline: float) -> None:
    """Kill a process and its children (SIGKILL) and waits until they have ended.

    The parent comes first: it must not take its children's end for a crash and start new ones.

    Args:
        parent: process id of a child of ours, which we have not waited for.
        deadline: how long to wait for each of them, in seconds.
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
            # proc_pid_stat(5): the name in parentheses may hold anything, ppid is 2 fields on.
            status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(status[1]) == parent:
                found.append(int(entry.name))
    return found


def _handle(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
