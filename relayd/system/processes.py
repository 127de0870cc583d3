"""What the kernel says of other processes, see proc(5)."""

from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped, or waits for a disk that does not answer."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The name of the program, in parentheses, may contain anything.
    return status.rpartition(b")")[2].split()[0] in (b"T", b"t", b"D")
