"""Shared by all tests: fixtures, skipping of tests without their tool, sharing among workers."""

import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.protocol import Scheduling

from relayd.config.main_conf import GeneralSettings
from tests.support import scheduling
from tests.support.directories import place
from tests.support.postgres import (
    created_postgres,
    database,
    postgres_server,
    private_postgres,
)

__all__ = ["created_postgres", "database", "place", "postgres_server", "private_postgres"]

#: Programs that tests call. A machine with Python and make need not have them: what cannot run
#: there is skipped. `.ci/run` installs them, so nothing is skipped in CI.
TOOLS = frozenset({"groff", "mandoc", "openssl", "setpriv", "strace", "systemd-analyze", "unshare"})

#: What the machine's own relayd would keep there; a test has directories of its own.
REAL_STATE = GeneralSettings().state_directory

# A shell without job control starts commands in the background with SIGINT ignored, and so would
# every daemon that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Return the one that knows which tests must not run at the same time."""
    return scheduling.Scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long tests first where several workers share them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: scheduling.place(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test whose fixture needs a program that is not installed."""
    yield from _skipping_without_tool()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test that needs a program that is not installed."""
    yield from _skipping_without_tool()


def _skipping_without_tool() -> Generator[None, None, None]:
    try:
        yield
    except (FileNotFoundError, BaseExceptionGroup) as error:
        for leaf in _leaves(error):
            name = getattr(leaf, "filename", None)
            if name in TOOLS and shutil.which(str(name)) is None:
                pytest.skip(f"{name} is not installed")
        raise
    except pytest.skip.Exception as error:
        # pytest-trio reports that a test was skipped inside a nursery, but not why.
        for leaf in _leaves(error.__context__) if error.__context__ and not error.msg else ():
            if isinstance(leaf, pytest.skip.Exception) and leaf.msg:
                pytest.skip(leaf.msg)
        raise


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


@pytest.fixture(autouse=True)
def no_writing_to_the_real_state() -> Iterator[None]:
    """Fail a test during which the default `general.state_directory` was made or changed.

    Its settings lack this key, or those of a test that ran in another process at the same time.
    """
    before = _changes_of(REAL_STATE)
    yield
    assert _changes_of(REAL_STATE) == before, f"{REAL_STATE} was written to"


def _changes_of(directory: Path) -> dict[str, int]:
    """Return the times of modification of a directory and of what it has, by path."""
    try:
        paths = [directory, *directory.iterdir()]
        return {str(path): path.lstat().st_mtime_ns for path in paths}
    except FileNotFoundError:
        return {}
