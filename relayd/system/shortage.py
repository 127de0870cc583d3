"""What the machine has too little of, by the name of the limit that an operator can raise."""

import errno
from collections.abc import Mapping
from typing import Final

#: The limit on processes and threads, and the settings of a unit: systemd.exec(5) and
#: systemd.resource-control(5).
THREAD_LIMIT: Final = "RLIMIT_NPROC, LimitNPROC= or TasksMax="
#: Error → the limit that was reached.
_LIMITS: Final[Mapping[int | None, str]] = {
    errno.EAGAIN: THREAD_LIMIT,
    errno.EMFILE: "RLIMIT_NOFILE, LimitNOFILE=",
    errno.ENFILE: "sysctl fs.file-max",
    errno.ENOBUFS: "memory, MemoryMax=",
    errno.ENOMEM: "memory, MemoryMax=",
}
#: The same of inotify(7), whose errors have other meanings.
INOTIFY_LIMITS: Final[Mapping[int | None, str]] = {
    errno.EMFILE: "sysctl fs.inotify.max_user_instances",
    errno.ENOMEM: "memory, MemoryMax=",
    errno.ENOSPC: "sysctl fs.inotify.max_user_watches",
}
#: The same of files and sockets, of which EAGAIN says nothing but that they are not ready.
_FILE_LIMITS: Final = {code: limit for code, limit in _LIMITS.items() if code != errno.EAGAIN}


def with_limit(error: OSError, limits: Mapping[int | None, str] = _LIMITS) -> str:
    """Return the words of the system, and the name of the limit if one was reached."""
    words, limit = error.strerror or str(error), limits.get(error.errno)
    return words if limit is None else f"{words} ({limit})"


def words_of(error: OSError) -> str:
    """Return the words of the system for what a file or a socket refused, with a limit as well."""
    return with_limit(error, _FILE_LIMITS)


def is_shortage(error: RuntimeError) -> bool:
    """Return whether the system refused a thread (EAGAIN, clone(2)); only the text says so."""
    return str(error) == "can't start new thread"


def shortage_of(error: BaseException) -> str | None:
    """Return what an exception says the machine is short of; None if it says something else."""
    if isinstance(error, RuntimeError) and is_shortage(error):
        return f"cannot start a thread ({THREAD_LIMIT})"
    if isinstance(error, OSError) and error.errno in _LIMITS:
        return with_limit(error)
    return None
