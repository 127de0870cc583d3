"""What a check works on and what it tells."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from relayd.commands.check.service_user.account import Account
from relayd.config.main_conf import Settings


class Level(StrEnum):
    """How bad it is.

    `error`: relayd does not start or loses part of its work. `warning`: it works, but not for
    long or not well. `skipped`: could not be found out here.
    """

    ERROR = "error"
    WARNING = "warning"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong; every text is one line.

    Attributes:
        level: how bad.
        code: stays the same from version to version: `check.kind`, for scripts.
        where: a path, a configuration key, a server or a node.
        what: what is wrong there.
        mend: what to do about it.
    """

    level: Level
    code: str
    where: str
    what: str
    mend: str


def error(code: str, where: object, what: str, mend: str) -> Finding:
    """Make a finding that must be mended."""
    return Finding(Level.ERROR, code, str(where), what, mend)


def warning(code: str, where: object, what: str, mend: str) -> Finding:
    """Make a finding that should be mended."""
    return Finding(Level.WARNING, code, str(where), what, mend)


def skipped(code: str, where: object, what: str, mend: str) -> Finding:
    """Make a finding about what could not be found out."""
    return Finding(Level.SKIPPED, code, str(where), what, mend)


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What the service user may do with a path, as the system answered that very user.

    Attributes:
        path: the path.
        kind: `directory`, `file`, `socket` or `other`; None when there is nothing, or nothing
            that the user may see.
        blocked: the directory above it that the user may not enter, if there is one.
        read: whether the user may read it.
        write: whether the user may write to it; in a directory, add and remove names.
        execute: whether the user may run it; in a directory, reach what is inside.
        parent: the nearest directory above it that exists.
        parent_write: whether the user may add a name there.
        waiting: files of the spool in this directory, only where it was asked to count them.
        unreadable: how many of them the user may not read.
        unreadable_name: one of those.
        oldest: modification time of the oldest of them, unix time in seconds.
    """

    path: str
    kind: str | None = None
    blocked: str | None = None
    read: bool = False
    write: bool = False
    execute: bool = False
    parent: str = "/"
    parent_write: bool = False
    waiting: int = 0
    unreadable: int = 0
    unreadable_name: str = ""
    oldest: float | None = None


@dataclass(frozen=True)
class Site:
    """What is checked.

    Attributes:
        directory: the configuration directory.
        settings: what `main.conf` says.
        my_id: the node id of this policy server.
        account: the user that the daemon runs as.
        access: what this user may do, by path; None when it could not be found out.
        clocks: seconds by which others' clocks are ahead of this one, by who; filled by the checks
            that speak to others.
    """

    directory: Path
    settings: Settings
    my_id: str
    account: Account
    access: Mapping[Path, Access] | None
    clocks: dict[str, float] = field(default_factory=dict)

    @property
    def to_database(self) -> bool:
        """Whether run logs go to the database."""
        return self.settings.processing.reporting.output == "database"

    @property
    def to_upstream(self) -> bool:
        """Whether anything is sent upstream."""
        processing = self.settings.processing
        return "upstream" in (processing.reporting.output, processing.inventory.output)


@dataclass(frozen=True)
class Check:
    """One of the checks.

    Attributes:
        name: of one word; the first part of the codes of its findings.
        run: finds what is wrong.
        deadline: seconds it may take.
    """

    name: str
    run: Callable[[Site], Awaitable[list[Finding]]]
    deadline: float


@dataclass(frozen=True)
class Report:
    """What came of all checks, in their order: name → findings."""

    directory: Path
    account: Account
    results: dict[str, list[Finding]] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All findings, errors first."""
        order = list(Level)
        found = [finding for findings in self.results.values() for finding in findings]
        return sorted(found, key=lambda finding: order.index(finding.level))

    @property
    def sound(self) -> bool:
        """Whether nothing must be mended."""
        return all(finding.level is not Level.ERROR for finding in self.findings)
