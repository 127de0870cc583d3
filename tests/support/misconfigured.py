"""Ways to break an installation, and what `relayd check` must report."""

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

#: What is reported as well where there is no clock to compare with, on a machine without NTP.
_LONELY: Final = re.compile(r"(warning|skipped): this machine: no.*")


def conf(**tables: str) -> Break:
    """Add lines to tables of main.conf; `__` stands for the dots in a name."""

    def apply(site: Site, _database: postgres.Database) -> None:
        for table, lines in tables.items():
            name = table.replace("__", ".")
            site.extra[name] = merge(site.extra.get(name, ""), fill(lines, site))
        rewrite(site)

    return apply


def rewrite(site: Site) -> None:
    """Rewrite main.conf; its owner stays."""
    site.write_conf()


def fill(text: str, site: Site) -> str:
    """Put this site's places into a text."""
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
    """Has the configuration name another server, database, role or password."""

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
    """Something broken, and the lines that report it.

    In a line the names of `fill` stand in braces; one that begins with `~` is a pattern.
    """

    name: str
    apply: Break
    lines: tuple[str, ...]
    faults: tuple[str, ...] = ()


def case(name: str, apply: Break, *lines: str, faults: tuple[str, ...] = ()) -> Case:
    """Make a case; `faults` are the rows of the fault matrix that it proves."""
    return Case(name, apply, lines, faults)


def parameters(cases: Iterable[Case]) -> list[ParameterSet]:
    """Cases as parameters of a test, by their names."""
    return [
        pytest.param(one, id=one.name, marks=pytest.mark.fault(*one.faults) if one.faults else ())
        for one in cases
    ]


def verify(done: Checked, expected: tuple[str, ...], site: Site, *, lonely: bool = False) -> None:
    """Assert that exactly these lines were printed, and that only errors give exit code 1.

    Args:
        done: the output and the exit code.
        expected: the lines of a case.
        site: for the places in them.
        lonely: whether no other machine's clock could be asked.
    """
    shown = [line for line in done.findings if not (lonely and _LONELY.fullmatch(line))]
    assert done.stderr == ""
    assert len(shown) == len(expected), shown
    for line, text in zip(shown, expected, strict=True):
        if text.startswith("~"):
            assert re.fullmatch(fill(text[1:], site), line), line
        else:
            assert line == fill(text, site)
    assert done.code == any(line.startswith("error:") for line in shown)
