"""Write docs/faults.md: every fault of tests/faults.toml with the tests that prove it.

    python tools/faults.py            write the page
    python tools/faults.py --check    change nothing; fail if a fault has no test, a test names an
                                      unknown fault, or the page is stale

pytest collects the tests, so an id on a parameter counts like one on a test.
"""

import argparse
import contextlib
import io
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = Path("tests/faults.toml")
TABLE: Final = Path("docs/faults.md")

HEADER: Final = """\
# Faults

What can go wrong around relayd, how it behaves then, and the tests that prove it.
The rows are in `tests/faults.toml`; tests name theirs with `@pytest.mark.fault("S1")` or \
`@pytest.mark.history(1)`.
`make faults` writes this page from both, and CI fails if a row has no test or the page is stale.
*later* marks rows of parts that are not built yet, *(torture)* a test that only `make torture` \
runs, and N x a test with N parameters that name the row.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        id: its id.
        text: a description of one line.
        later: it concerns a part that is not built yet, so it needs no test.
    """

    id: str
    text: str
    later: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Faults of one kind, in the order of the file."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """A test function that proves a fault.

    Attributes:
        path: file of the test.
        name: name of the function.
        torture: whether only `make torture` runs it.
    """

    path: str
    name: str
    torture: bool


#: Row id → the tests that prove it, one entry per parameter.
Proofs = Mapping[str, Sequence[Proof]]


@dataclass
class Collector:
    """A pytest plugin that records which test carries which id."""

    proofs: dict[str, list[Proof]] = field(default_factory=lambda: defaultdict(list))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read the markers of all collected tests."""
        for item in items:
            path = item.nodeid.partition("::")[0]
            name = getattr(item, "originalname", None) or item.name
            proof = Proof(path, name, item.get_closest_marker("torture") is not None)
            for row in set(_ids(item)):
                self.proofs[row].append(proof)


def _ids(item: pytest.Item) -> Iterable[str]:
    for marker in item.iter_markers("fault"):
        yield from (str(row) for row in marker.args)
    for marker in item.iter_markers("history"):
        yield from (f"H{number}" for number in marker.args)


def load(source: Path) -> list[Group]:
    """Read the faults; ids of the history group become `H1`, `H2` and so on.

    Raises:
        ValueError: `later` names an id that is not in the group.
    """
    groups = []
    for group in tomllib.loads(source.read_text(encoding="utf-8"))["group"]:
        later = group.get("later", [])
        later = set(group["rows"]) if later is True else set(later)
        if unknown := later - set(group["rows"]):
            raise ValueError(f"{source}: {group['title']}: later names {sorted(unknown)}")
        prefix = "H" if group.get("history") else ""
        rows = [Row(prefix + key, text, key in later) for key, text in group["rows"].items()]
        groups.append(Group(group["title"], tuple(rows)))
    return groups


def collect(root: Path) -> Proofs:
    """Let pytest collect the tests below `root` and return the proofs of each row.

    Raises:
        RuntimeError: collection failed; the text is pytest's output.
    """
    collector = Collector()
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main(
            ["--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={root}", str(root)],
            plugins=[collector],
        )
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        raise RuntimeError(output.getvalue())
    return collector.proofs


def problems(groups: Sequence[Group], proofs: Proofs) -> list[str]:
    """Return the mismatches between rows and tests, one line each."""
    rows = {row.id: row for group in groups for row in group.rows}
    found = [
        f"no test proves {row.id}: {row.text}"
        for row in rows.values()
        if not row.later and not proofs.get(row.id)
    ]
    for orphan in sorted(set(proofs) - set(rows)):
        proof = proofs[orphan][0]
        found.append(f"{proof.path}::{proof.name} names {orphan}, which is not in {SOURCE}")
    return found


def render(groups: Sequence[Group], proofs: Proofs) -> str:
    """Return the page."""
    parts = [HEADER]
    for group in groups:
        parts.append(f"\n## {group.title}\n\n| | | proved by |\n| --- | --- | --- |\n")
        parts += [
            f"| {row.id} | {row.text} | {_cell(row, proofs.get(row.id, ()))} |\n"
            for row in group.rows
        ]
    return "".join(parts)


def _cell(row: Row, proofs: Sequence[Proof]) -> str:
    if not proofs:
        return "*later*" if row.later else "**nothing yet**"
    lines = []
    for proof in sorted(set(proofs)):
        count = proofs.count(proof)
        # The number of parameters of tests on reference data depends on this machine.
        varies = proof.path.startswith("tests/interop/")
        times = f"{count} x " if count > 1 and not varies else ""
        torture = " (torture)" if proof.torture else ""
        lines.append(f"{times}[{proof.name}](../{proof.path}){torture}")
    return "<br>".join(lines)


def main() -> int:
    """Write or check the page and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail on problems")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="repository to read")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    groups = load(root / SOURCE)
    try:
        proofs = collect(root)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    found = problems(groups, proofs)
    page = render(groups, proofs)
    table = root / TABLE
    if not arguments.check:
        table.parent.mkdir(exist_ok=True)
        table.write_text(page, encoding="utf-8")
    elif not table.exists() or table.read_text(encoding="utf-8") != page:
        found.append(f"{TABLE} is stale: run `make faults`")
    for line in found:
        print(line)
    required = sum(not row.later for group in groups for row in group.rows)
    print(f"{required} faults to prove, {len(found)} problems")
    return 1 if found and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
