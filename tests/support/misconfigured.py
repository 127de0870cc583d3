"""Ways to break an installation, and the findings of `relayd check` about it."""

import grp
import pwd
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from _pytest.mark import ParameterSet

from tests.support import postgres
from tests.support.checked import Checked, edit_nodes, service_user
from tests.support.daemon import Site, merge

Break = Callable[[Site, postgres.Database], object]

#: Findings about the clock of the machine, where there is no other to compare with.
_CLOCK: Final = re.compile(r"(warning|skipped): this machine: .*")
#: The finding about a daemon that no test has started.
_STOPPED: Final = re.compile(r"warning: general\.listen .*: relayd is not running\. .*")
#: Findings about the libraries of the machine.
_LIBRARY: Final = re.compile(r"warning: OpenSSL .*")


def conf(**tables: str) -> Break:
    """Add lines to tables of main.conf; `__` stands for the dots in a name."""

    def apply(site: Site, _database: postgres.Database) -> None:
        for table, lines in tables.items():
            name = table.replace("__", ".")
            site.extra[name] = merge(site.extra.get(name, ""), fill(lines, site))
        rewrite(site)

    return apply


def rewrite(site: Site) -> None:
    """Writes main.conf again, with the same owner."""
    site.write_conf()


def fill(text: str, site: Site) -> str:
    """Fills in the paths and names of this site."""
    name = service_user()
    group = grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    server = site.database
    return text.format(
        root=site.root,
        conf=site.conf,
        user=name,
        group=group,
        port=site.port,
        database=f"{server.host}:{server.port}/{server.database}",
        server=f"{server.host}:{server.port}",
        name=server.database,
    )


def path(change: Callable[[Path], object], *names: str) -> Break:
    """Change files of the site."""

    def apply(site: Site, _database: postgres.Database) -> None:
        for name in names:
            change(site.root / name)

    return apply


def mode(bits: int, *names: str) -> Break:
    """Set the mode of files."""
    return path(lambda file: file.chmod(bits), *names)


def unlink(*names: str) -> Break:
    """Remove files."""
    return path(Path.unlink, *names)


def write(name: str, text: str) -> Break:
    """Write a file."""
    return path(lambda file: file.write_text(text), name)


def sql(statement: str) -> Break:
    """Run SQL as the superuser in the site's database."""
    return lambda _site, database: database.query(statement.format(name=database.rudder.database))


def server(**changes: str | int) -> Break:
    """Configures another server, database, role or password."""

    def apply(site: Site, _database: postgres.Database) -> None:
        site.database = replace(site.database, **changes)  # type: ignore[arg-type]
        rewrite(site)

    return apply


def nodes(**entries: dict[str, str] | None) -> Break:
    """Change the nodes list."""
    return lambda site, _database: edit_nodes(site, **entries)


def both(*breaks: Break) -> Break:
    """Do several things."""

    def apply(site: Site, database: postgres.Database) -> None:
        for one in breaks:
            one(site, database)

    return apply


@dataclass(frozen=True)
class Case:
    """A fault, and the lines that report it.

    Lines may contain names of `fill` in braces; one that begins with `~` is a pattern.
    """

    name: str
    apply: Break
    lines: tuple[str, ...]
    faults: tuple[str, ...] = ()


def case(name: str, apply: Break, *lines: str, faults: tuple[str, ...] = ()) -> Case:
    """A case; `faults` are the rows of the fault matrix that it proves."""
    return Case(name, apply, lines, faults)


def parameters(cases: Iterable[Case]) -> list[ParameterSet]:
    """Cases as parameters of a test, by their names."""
    return [
        pytest.param(one, id=one.name, marks=pytest.mark.fault(*one.faults) if one.faults else ())
        for one in cases
    ]


def about_site(lines: Iterable[str], *, lonely: bool = False) -> list[str]:
    """The findings about the site, without those about the machine and the missing daemon.

    Args:
        lines: all findings.
        lonely: whether no other clock is known, so that the clock of the machine is judged.
    """
    machine = (_LIBRARY, _STOPPED, _CLOCK) if lonely else (_LIBRARY, _STOPPED)
    return [line for line in lines if not any(pattern.fullmatch(line) for pattern in machine)]


def verify(done: Checked, expected: tuple[str, ...], site: Site, *, lonely: bool = False) -> None:
    """Asserts that exactly these lines were printed, and that only errors give exit code 1.

    Args:
        done: the output.
        expected: the lines of a case.
        site: the site, for the paths and names in the lines.
        lonely: whether no other clock is known.
    """
    lines = about_site(done.findings, lonely=lonely)
    assert done.stderr == ""
    assert len(lines) == len(expected), lines
    for line, text in zip(lines, expected, strict=True):
        if text.startswith("~"):
            assert re.fullmatch(fill(text[1:], site), line), line
        else:
            assert line == fill(text, site)
    assert done.code == any(line.startswith("error:") for line in lines)
