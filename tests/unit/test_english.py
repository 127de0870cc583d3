"""Words that the project does not use: unidiomatic, or invented where English has a common word."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.project import ROOT

#: Files and directories that are checked.
CHECKED: Final = (
    *("README.md", "CHANGELOG.md", "docs", "man", "conf", "systemd", "packaging", "selinux"),
    *("relayd", "tests", "benchmarks", "tools", "Makefile", "pyproject.toml"),
)

#: The words, and what to write instead. A space stands for any white space or underscore, and words
#: are found in names as well.
WORDS: Final = {
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"to be had": "available",
    r"(?:of|by) ours": "our, relayd's own",
    r"tellers?": "name what it does: it collects, reports or writes",
    # Things are not told anything, and do not tell it: `tell(s) … apart` is idiomatic.
    r"(?<!\.)(?:told|tell(?:s|ing)?)(?!(?: \S+){0,4} apart)": "log, report, say, show",
    r"hungry": "ready, waiting",
    r"anew": "again",
    r"thereby": "by doing so, so",
    r"whoever": "anyone who, or name the subject",
    r"shall": "must, should, will",
    r"cure[sd]?": "fix",
    r"housekeeping": "cleanup",
    r"crowd(?:s|ed|ing)?": "limit, congestion",
    r"rooms?(?! for)": "package, directory, space",
    r"eras?": "period, or name the event",
    r"so (?:long|many|few) (?:is|are|was|were)": "this long, this many",
    r"(?:first|last) look": "check, probe",
    r"less the umask": "minus the umask",
    r"ends no": "does not end the",
    r"for nobody's sake": "state what happens instead",
    r"what is known": "name it",
}
_BANNED: Final = re.compile(
    rf"(?<![^\W_])(?:{'|'.join(WORDS)})(?![^\W_])".replace(" ", r"[\s_]+"), re.IGNORECASE
)

#: The list itself, and a page made of names of tests and of tests/faults.toml.
_EXEMPT: Final = {Path(__file__), ROOT / "docs" / "faults.md"}
#: A row of the table of old and new log events: the old ones are quoted.
_QUOTED: Final = re.compile(r"^ +\|.*$", re.MULTILINE)


def _files(tree: str) -> Iterator[Path]:
    top = ROOT / tree
    for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
        if path.is_file() and path not in _EXEMPT and "__pycache__" not in path.parts:
            yield path


def _found(text: str) -> list[str]:
    return [
        f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]}"
        for found in _BANNED.finditer(text)
    ]


@pytest.mark.parametrize("tree", CHECKED)
def test_words_are_common_english(tree: str) -> None:
    """No text or name of the project contains a word of the list."""
    faults = []
    for path in _files(tree):
        text = path.read_text(encoding="utf-8", errors="replace")
        text = _QUOTED.sub("", text) if path.name == "CHANGELOG.md" else text
        faults += [f"{path.relative_to(ROOT)}:{fault}" for fault in _found(text)]
    assert faults == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How is it mended?", ["1: mended"]),
        ("Recommended amendments", []),
        ("inotify is\nnot to be\nhad", ["2: to be\nhad"]),
        ("A constant of ours.", ["1: of ours"]),
        ("class Teller: ...\n_told_once = 1", ["1: Teller", "2: told"]),
        ("It tells what is wrong.", ["1: tells"]),
        ("It cannot tell the two files apart.", []),
        ("file.tell()", []),
        ("secure, headroom, several, operators; room for more", []),
        ("As long as it lasts, look at it.", []),
    ],
)
def test_listed_words_are_found(text: str, found: list[str]) -> None:
    """Words are found with their line, in prose and in names, and parts of other words are not."""
    assert _found(text) == found
