"""What a spool looks like on disk; nothing else in relayd spells these names.

reports/                        inventories/
├── incoming/   run logs        ├── incoming/                  of nodes not accepted yet
├── failed/     refused ones    ├── accepted-nodes-updates/    of accepted nodes
├── held/       committed ones  ├── failed/
└── on-hold/    set aside by    └── on-hold/
                an operator
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from relayd.config.main_conf import Settings
from relayd.errors import StartError, start_error
from relayd.spool.lock import DirectoryLock
from relayd.system.shortage import words_of

INCOMING: Final = "incoming"
UPDATES: Final = "accepted-nodes-updates"
FAILED: Final = "failed"
HELD: Final = "held"
ON_HOLD: Final = "on-hold"

#: Extensions of files that are processed, without dot. Cleanup removes any other file once old.
RUN_LOGS: Final = frozenset({"gz", "zip", "log"})
INVENTORIES: Final = frozenset({"gz", "xml", "ocs", "sign"})

#: relayd writes a file under such a name until it is whole. The leading dot hides it from listings.
TEMPORARY: Final = ".relayd.tmp."

_MODE: Final = 0o750


class Spool(msgspec.Struct, frozen=True):
    """One spool.

    Attributes:
        directory: as configured.
        places: names of its watched directories.
        extensions: of the files that are processed, without dot.
        hidden: whether files whose name begins with a dot are processed too.
        ordered: whether files are run logs, which are processed in the order of each node's runs.
        keeps: whether committed files are kept for a while.
    """

    directory: Path
    places: tuple[str, ...]
    extensions: frozenset[str]
    hidden: bool = False
    ordered: bool = False
    keeps: bool = False

    @property
    def watched(self) -> tuple[Path, ...]:
        """The watched directories, in the order of `places`."""
        return tuple(self.directory / place for place in self.places)

    @property
    def failed(self) -> Path:
        """The directory of refused files."""
        return self.directory / FAILED

    @property
    def held(self) -> Path:
        """The directory of committed files that are kept for a while, if they are."""
        return self.directory / HELD

    @property
    def on_hold(self) -> Path:
        """The directory of files that an operator has set aside; made when the first one is."""
        return self.directory / ON_HOLD

    @property
    def in_use(self) -> tuple[Path, ...]:
        """All directories that have files of it, `on_hold` left out: few spools have that."""
        return (*self.watched, self.failed, *((self.held,) if self.keeps else ()))


def run_log_spool(directory: Path, *, keeps: bool = False) -> Spool:
    """Return the spool of run logs below `processing.reporting.directory`."""
    return Spool(directory, (INCOMING,), RUN_LOGS, ordered=True, keeps=keeps)


def inventory_spool(directory: Path) -> Spool:
    """Return the spool of inventories below `processing.inventory.directory`."""
    return Spool(directory, (INCOMING, UPDATES), INVENTORIES, hidden=True)


def spools_of(settings: Settings) -> tuple[Spool, Spool]:
    """Return the spools of an installation, whether they are in use or not."""
    processing = settings.processing
    return (
        run_log_spool(processing.reporting.directory),
        inventory_spool(processing.inventory.directory),
    )


@contextmanager
def hold(spool: Spool) -> Iterator[Mapping[Path, DirectoryLock]]:
    """Make missing directories, and keep other processes out of the spool until the block ends.

    Only the directories with files are needed: the one above them may belong to someone else.

    Yields:
        The lock of each watched directory.

    Raises:
        StartError: a directory cannot be used, or another relayd uses one.
    """
    ensure_directories(*spool.in_use)
    with ExitStack() as stack:
        yield {path: stack.enter_context(DirectoryLock(path)) for path in spool.watched}


def is_directory(path: Path) -> bool:
    """Return whether there is a directory at a path.

    Raises:
        StartError: this user may not know that.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError as error:
        raise StartError(f"{path} cannot be read: {words_of(error)}") from error
    except OSError:
        return False


def ensure_directories(*directories: Path) -> None:
    """Make the directories that are missing, with mode 0750 minus the umask.

    Raises:
        StartError: one cannot be made or used; the text names it.
    """
    for directory in directories:
        try:
            directory.mkdir(mode=_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_create(directory, error) from error
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise StartError(f"spool directory {directory} cannot be read and written")


def make_beside(directory: Path, like: Path) -> None:
    """Make a directory with the owner and mode of another one, so that relayd can use it.

    A command of an operator runs as another user than relayd.

    Raises:
        OSError: it cannot be made.
    """
    try:
        directory.mkdir(mode=_MODE)
    except FileExistsError:
        return
    give_to_owner_of(directory, like)


def give_to_owner_of(path: Path, like: Path) -> None:
    """Give what root has made to the owner and group of another path; raise OSError."""
    if os.geteuid() == 0:
        status = like.stat()
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


def _cannot_create(directory: Path, error: OSError) -> StartError:
    for parent in reversed(directory.parents):
        # Path.is_dir raises an error below a directory that may not be entered.
        if os.path.isdir(parent) and not os.access(parent, os.X_OK):  # noqa: PTH112
            return StartError(
                f"spool directory {directory} cannot be used: {parent} may not be entered"
            )
    problem = f"spool directory {directory} cannot be created"
    return start_error(problem, error, file=directory, words=words_of(error))
