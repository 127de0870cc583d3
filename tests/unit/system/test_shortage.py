"""The names of limits."""

import errno
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.config.main_conf import load_logging, load_settings
from relayd.errors import StartError
from relayd.fleet.peers.tls import reason_of
from relayd.outputs.postgres.connecting.surroundings import Surroundings
from relayd.outputs.postgres.faults import ConnectError, explain, explain_connecting
from relayd.spool.opening import try_later
from relayd.system.shortage import INOTIFY_LIMITS, shortage_of, with_limit, words_of
from tests.support.project import ROOT

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


def load(error: OSError) -> str:
    """What is said about a main.conf, and a logging.conf, that cannot be opened."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise error

        patch.setattr(os, "open", refuse)
        patch.setattr(Path, "stat", refuse)
        said += map(str, load_logging(Path("/nowhere")).warnings)
        with pytest.raises(StartError) as caught:
            load_settings(Path("/nowhere"))
    assert ("(" in said[0]) is ("(" in str(caught.value))
    return str(caught.value)


def unknown_user(error: OSError) -> str:
    """What is said about this process when no file can be opened, its user's entry neither."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> int:
            raise error

        patch.setattr(os, "open", refuse)
        patch.setattr(pwd, "getpwuid", {}.__getitem__)
        with pytest.raises(ConnectError) as caught:
            Surroundings.of_process()
    assert caught.value.kind == "transient"
    return caught.value.detail


@pytest.mark.parametrize(
    "explain_it",
    [
        words_of,
        reason_of,
        load,
        lambda error: explain(error).detail,
        lambda error: explain_connecting(error, "h").detail,
        unknown_user,
        lambda error: try_later("cannot be read", error).detail,
    ],
)
@pytest.mark.parametrize(
    ("code", "limit"),
    [(errno.EMFILE, "LimitNOFILE="), (errno.ENFILE, "fs.file-max"), (errno.EAGAIN, "")],
)
def test_every_reader_of_errors_names_the_limit(
    explain_it: Callable[[OSError], str], code: int, limit: str
) -> None:
    """Whatever needs a descriptor names the limit; EAGAIN is no limit of files and sockets."""
    said = explain_it(OSError(code, os.strerror(code)))
    assert limit in said
    assert "NPROC" not in said
    assert bool(limit) is ("(" in said)


def test_no_line_leaves_the_limit_out() -> None:
    """No module of the daemon logs or reports the bare words of the system."""
    bare = re.compile(r"(?:detail|reason)=(\w+)\.strerror|\{\w+\.strerror")
    missing = "api/shared_folder.py"  # of a file that does not exist
    found = [
        path.relative_to(ROOT / "relayd").as_posix()
        for path in (ROOT / "relayd").rglob("*.py")
        for _ in bare.finditer(path.read_text())
        if "commands" not in path.parts[:-1] or "remote_run" in path.parts
    ]
    assert found == [missing]
