"""The input of the checks and their findings."""

import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from relayd.commands.check.account import Account
from relayd.commands.daemon import DEFAULT_DIRECTORY
from relayd.config.main_conf import MAIN_FILE, Settings
from relayd.spool.layout import Spool, inventory_spool, run_log_spool


class Level(StrEnum):
    """Severity of a finding.

    `error`: relayd does not start, or part of its work is not done. `warning`: it works, but not
    well or not for long. `note`: it does as an operator has asked, who may want to take that back.
    `skipped`: this could not be checked.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One fault; every text is one line.

    Attributes:
        level: the severity.
        code: `check.kind`, for scripts; stays the same from version to version.
        where: a path, a configuration key, a server or a node.
        what: the fault.
        fix: how to fix it.
    """

    level: Level
    code: str
    where: str
    what: str
    fix: str


def error(code: str, where: object, what: str, fix: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(Level.ERROR, code, str(where), what, fix)


def warning(code: str, where: object, what: str, fix: str) -> Finding:
    """Return a finding that should be fixed."""
    return Finding(Level.WARNING, code, str(where), what, fix)


def note(code: str, where: object, what: str, fix: str) -> Finding:
    """Return a finding about what an operator has asked for."""
    return Finding(Level.NOTE, code, str(where), what, fix)


def as_warnings(found: Iterable[Finding]) -> list[Finding]:
    """Return findings of a check as warnings: about something that relayd works without."""
    return [msgspec.structs.replace(one, level=Level.WARNING) for one in found]


def skipped(code: str, where: object, what: str, fix: str) -> Finding:
    """Return a finding about something that could not be checked."""
    return Finding(Level.SKIPPED, code, str(where), what, fix)


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What the service user may do with a path, according to the system.

    Attributes:
        path: the path.
        kind: `directory`, `file`, `socket` or `other`; None when it does not exist or the user
            may not see it.
        link: where a symbolic link leads that leads nowhere; None for anything else.
        blocked: a directory above it that the user may not enter, None without one.
        read: whether the user may read it.
        write: whether the user may write to it; in a directory, add and remove names.
        execute: whether the user may run it; in a directory, reach its entries.
        parent: the nearest existing directory above it.
        parent_write: whether the user may add a name there.
        waiting: spool files in this directory, counted only if that was requested.
        unreadable: how many of them the user may not read.
        unreadable_name: one of those.
        oldest: modification time of the oldest of them, unix time in seconds.
    """

    path: str
    kind: str | None = None
    link: str | None = None
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
    """The installation to check.

    Attributes:
        directory: the configuration directory.
        settings: the settings of `main.conf`.
        my_id: the node id of this policy server.
        account: the user that the daemon runs as.
        access: permissions of this user, by path; None when they are unknown.
        web: the user of the web server, None to find it by its processes.
        clocks: seconds by which the clock of another machine is ahead of this one, by machine;
            filled by the checks that connect to others.
        complaints: what the running daemon itself reports as an error, by the name in its status;
            filled by the check of the daemon.
    """

    directory: Path
    settings: Settings
    my_id: str
    account: Account
    access: Mapping[Path, Access] | None
    web: Account | None = None
    clocks: dict[str, float] = field(default_factory=dict)
    complaints: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> Path:
        """The file main.conf."""
        return self.directory / MAIN_FILE

    def command(self, words: str) -> str:
        """Return a command of relayd with the options that it needs for this installation."""
        if self.directory == DEFAULT_DIRECTORY:
            return f"relayd {words}"
        return f"relayd {words} -c {shlex.quote(str(self.directory))}"

    @property
    def spools(self) -> list[Spool]:
        """The spools whose output is enabled."""
        processing, spools = self.settings.processing, []
        if processing.reporting.output != "disabled":
            own = processing.reporting
            spools.append(run_log_spool(own.directory, keeps=self.settings.keeps_run_logs))
        if processing.inventory.output != "disabled":
            spools.append(inventory_spool(processing.inventory.directory))
        return spools

    @property
    def examines(self) -> bool:
        """Whether run logs are examined here, which needs nodes and certificates."""
        return self.settings.processing.reporting.examined_here

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
        name: one word; the first part of the codes of its findings.
        run: returns the findings; None if something else must be fixed before it can check.
        deadline: seconds it may take.
    """

    name: str
    run: Callable[[Site], Awaitable[list[Finding] | None]]
    deadline: float


@dataclass(frozen=True)
class CheckReport:
    """The findings of all checks, by name and in the order of the checks.

    Attributes:
        directory: the configuration directory.
        account: the user that the daemon runs as.
        results: the findings by check; None for one that could not be made.
    """

    directory: Path
    account: Account
    results: dict[str, list[Finding] | None] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All findings, errors first."""
        order = list(Level)
        found = [finding for findings in self.results.values() for finding in findings or ()]
        return sorted(found, key=lambda finding: order.index(finding.level))

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return all(finding.level is not Level.ERROR for finding in self.findings)
