"""The contents of requirements.lock: versions, hashes, dependencies, and the runtime part.

    python -m tools.lock                  print the runtime part, for pip
    python -m tools.lock --extra demo     print it with the packages of this extra
    python -m tools.lock NAME…            print packages and their dependencies

The lock covers every platform and includes the packages for development. A Debian package contains
only the runtime part.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent

#: The end of a marker that holds on no Linux; one with `or` is kept.
_ELSEWHERE: Final = re.compile(r"^(?!.* or ).*sys_platform == '(?!linux')")
_PIN: Final = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))? \\")
_HASH: Final = re.compile(r"--hash=sha256:(?P<hex>[0-9a-f]{64})(?: \\)?")
_NEEDED_BY: Final = re.compile(r"#(?: +via)? +(?:-r )?(?P<name>[\w./-]+)(?: \(.+\))?")


class LockError(ValueError):
    """The lock cannot be parsed, or lacks a package."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of the lock.

    Attributes:
        name: normalised (PEP 503).
        version: its pinned version.
        marker: environments that need it (PEP 508); empty: all.
        hashes: SHA-256 of its files, in hexadecimal.
        needed_by: packages that require it; "relayd" is the project itself.
        text: its lines in the lock.
    """

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]
    text: str


def normalise(name: str) -> str:
    """Return a package's name as the lock spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, Locked]:
    """Return the packages of a lock by name.

    Raises:
        LockError: a line is not understood, or a package has no hash.
    """
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line.startswith(" ") and blocks:
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return {package.name: package for package in map(_package, blocks)}


def _package(lines: list[str]) -> Locked:
    head = _PIN.fullmatch(lines[0])
    if head is None:
        raise LockError(f"not a pinned package with hashes: {lines[0]}")
    hashes, needed_by = [], []
    for line in map(str.strip, lines[1:]):
        if line == "# via":
            continue
        if found := _HASH.fullmatch(line):
            hashes.append(found["hex"])
        elif found := _NEEDED_BY.fullmatch(line):
            needed_by.append(normalise(found["name"]))
        else:
            raise LockError(f"{head['name']}: {line}")
    if not hashes:
        raise LockError(f"{head['name']}: no hash")
    return Locked(
        normalise(head["name"]),
        head["version"],
        head["marker"] or "",
        tuple(hashes),
        tuple(needed_by),
        "\n".join(lines) + "\n",
    )


def direct_dependencies(pyproject: str, *extras: str) -> list[str]:
    """Return the normalised names of relayd's direct runtime dependencies.

    Args:
        pyproject: the text of pyproject.toml.
        extras: extras whose dependencies are included.
    """
    project = tomllib.loads(pyproject)["project"]
    dependencies = list(project["dependencies"])
    for extra in extras:
        dependencies += project["optional-dependencies"][extra]
    return [normalise(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in dependencies]


def closure(lock: Mapping[str, Locked], direct: Iterable[str]) -> dict[str, Locked]:
    """Return `direct` and all their dependencies, by name, sorted.

    Raises:
        LockError: one of `direct` is not in the lock.
    """
    wanted: set[str] = set()
    new = set(direct)
    while new:
        if missing := new - lock.keys():
            raise LockError(f"not in the lock: {', '.join(sorted(missing))}")
        wanted |= new
        needed = {name for name, package in lock.items() if new & set(package.needed_by)}
        new = needed - wanted
    return {name: lock[name] for name in sorted(wanted)}


def runtime_lock(root: Path = REPOSITORY, *extras: str) -> dict[str, Locked]:
    """Read the lock and return its runtime part, with that of these extras."""
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    return part(direct_dependencies(pyproject, *extras), root)


def part(names: Iterable[str], root: Path = REPOSITORY) -> dict[str, Locked]:
    """Read the lock and return these packages and their dependencies on Linux."""
    lock = read_lock((root / "requirements.lock").read_text(encoding="utf-8"))
    needed = closure(lock, map(normalise, names))
    return {
        name: package for name, package in needed.items() if not _ELSEWHERE.search(package.marker)
    }


def main(arguments: Sequence[str]) -> int:
    """Print these packages and their dependencies; without names, the runtime part."""
    parser = argparse.ArgumentParser(prog="tools.lock", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a package of the lock")
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml")
    given = parser.parse_args(arguments)
    packages = part(given.names) if given.names else runtime_lock(REPOSITORY, *given.extra)
    sys.stdout.writelines(package.text for package in packages.values())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
