"""Commands that a daemon is started by, so that system calls fail for it."""

import os
from pathlib import Path
from typing import Final

#: File modes count for root too; other users are bound by them anyway.
BOUND_BY_MODES: Final[tuple[str, ...]] = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)


def failing(call: str, error: str, when: str, *paths: Path) -> tuple[str, ...]:
    """Make a system call fail where it concerns one of these paths.

    Args:
        call: name of the system call.
        error: name of its errno.
        when: which calls of each thread fail, as strace(1) takes it, `1..2` for the first two.
        paths: absolute paths; they need not exist yet.
    """
    only = [part for path in paths for part in ("-P", str(path))]
    rule = f"inject={call}:error={error}:when={when}"
    return ("strace", "-f", "-qq", "-o", "/dev/null", *only, "-e", f"trace={call}", "-e", rule)
