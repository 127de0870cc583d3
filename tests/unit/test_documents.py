"""What the documents point to is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])

_LINK = re.compile(r"\]\((?P<path>[^)#: ]*)(?:#(?P<anchor>[^)]*))?\)")
_HEADING = re.compile(r"^#+ (?P<title>.*)$", re.MULTILINE)
_METRIC = re.compile(r"\brudder_relayd_[a-z_]+[a-z]")
_TARGET = re.compile(r"(?:^|[`$#] ?)make (?P<target>[a-z][a-z-]*)", re.MULTILINE)
_PLACE = re.compile(
    r"`(?P<path>(?:conf|systemd|selinux|packaging|man|docs|relayd|tests|tools|benchmarks)/[\w./@-]+)`"
)


def _anchors(text: str) -> Iterator[str]:
    for heading in _HEADING.finditer(text):
        kept = re.sub(r"[^\w\- ]", "", heading["title"].lower())
        yield kept.strip().replace(" ", "-")


def _named(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link names a file that is there, and a heading that is in it."""
    text = document.read_text()
    dangling = []
    for link in _LINK.finditer(text):
        target = document.parent / link["path"] if link["path"] else document
        if not target.exists() or (
            link["anchor"] and link["anchor"] not in _anchors(target.read_text())
        ):
            dangling.append(link[0])
    assert dangling == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_what_is_named_exists(document: Path) -> None:
    """Files of the source tree, targets of make and metrics that a document names are there."""
    text = document.read_text()
    makefile = (ROOT / "Makefile").read_text()
    metrics = Metrics().render().decode()
    # Words in capitals stand for a name of the reader's.
    places = [path for path in _PLACE.findall(text) if not re.search("[A-Z]{3}", Path(path).stem)]
    missing = [path for path in places if not (ROOT / path).exists()]
    missing += [name for name in _TARGET.findall(text) if f"\n{name}:" not in makefile]
    missing += [name for name in _METRIC.findall(text) if name not in metrics]
    assert missing == []


def test_every_document_is_listed() -> None:
    """The README leads to every document."""
    readme = (ROOT / "README.md").read_text()
    assert [
        one for one in set(map(_named, DOCUMENTS)) - {"README.md"} if f"({one})" not in readme
    ] == []
