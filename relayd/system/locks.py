"""Who holds a lock."""

import os
from pathlib import Path


def holder_of(path: Path) -> int | None:
    """Return the process that has locked a file with flock(2); None if none is known.

    It is looked up in proc_locks(5): trying the lock might keep out a process that starts.
    """
    try:
        status = path.stat()
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    device = status.st_dev
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    for line in table.splitlines():
        words = line.split()
        if words[1] == "FLOCK" and wanted in words:
            return int(words[4])
    return None
