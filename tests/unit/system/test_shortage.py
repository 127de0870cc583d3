"""The names of limits."""

import errno
import os

import pytest

from relayd.system.shortage import INOTIFY_LIMITS, shortage_of, with_limit

pytestmark = pytest.mark.fault("F45")


@pytest.mark.parametrize(
    ("code", "limit", "of_inotify"),
    [
        (errno.EMFILE, "LimitNOFILE=", "fs.inotify.max_user_instances"),
        (errno.ENFILE, "fs.file-max", ""),
        (errno.EAGAIN, "RLIMIT_NPROC", ""),
        (errno.ENOMEM, "MemoryMax=", "MemoryMax="),
        (errno.ENOSPC, "", "fs.inotify.max_user_watches"),
    ],
)
def test_limit_is_named_after_the_words_of_the_system(
    code: int, limit: str, of_inotify: str
) -> None:
    """An error of a limit is shown with its name, which differs for inotify; others as they are."""
    error = OSError(code, os.strerror(code))
    for shown, name in (
        (with_limit(error), limit),
        (with_limit(error, INOTIFY_LIMITS), of_inotify),
    ):
        assert shown.startswith(os.strerror(code))
        assert name in shown
        assert ("(" in shown) is bool(name)


def test_what_is_no_shortage_is_told_apart() -> None:
    """Other errors of the system, and other exceptions of the same type, are no shortage."""
    assert shortage_of(OSError(errno.EACCES, "no")) is None
    assert shortage_of(RuntimeError("bug")) is None
    found = shortage_of(RuntimeError("can't start new thread"))
    assert found is not None
    assert "RLIMIT_NPROC" in found
