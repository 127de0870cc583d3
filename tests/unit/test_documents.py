"""The documents: links and names lead somewhere, lists are complete, each sentence has a line."""

import fnmatch
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from relayd.commands.cli import main, rudder_relayd
from relayd.config.durations import parse_duration
from relayd.config.main_conf import Settings
from relayd.config.secret import Secret
from relayd.config.toml import leaves
from relayd.config.values import Listen
from relayd.errors import Reason
from relayd.runlog.filename import parse_name, queue_id
from relayd.runlog.model import RunLogName
from relayd.telemetry.metrics import Metrics
from tests.support.project import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])

_LINK = re.compile(r"\]\((?P<path>[^)#: ]*)(?:#(?P<anchor>[^)]*))?\)")
_HEADING = re.compile(r"^#+ (?P<title>.*)$", re.MULTILINE)
_METRIC = re.compile(r"\brudder_relayd_[a-z_]+[a-z]")
_TARGET = re.compile(r"(?:^|[`$#] ?)make (?P<target>[a-z][a-z-]*)", re.MULTILINE)
_PLACE = re.compile(
    r"`(?P<path>(?:conf|systemd|selinux|packaging|man|docs|relayd|tests|tools|benchmarks)/[\w./@-]+)`"
)
_KEY = re.compile(
    r"`((?:general|processing|output|remote_run|shared_files|shared_folder)(?:\.[a-z_*]+)+)`"
)
_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(
    r"^\| `(?P<key>[a-z0-9_.]+)` \| (?P<value>.*?) \| (?P<default>.*?) \|", re.MULTILINE
)
LOGGING = {"general.level", "general.filter", "general.format", "general.file_lines"}
#: Keys whose default depends on the machine and is described in words.
IN_WORDS = {"general.core_threads"}
#: Written by programs, which do not end lines with sentences.
GENERATED = {"docs/faults.md", "docs/licences.md"}
#: Lines outside paragraphs: empty, heading, indented code, table, fence.
_NO_PROSE = re.compile(r"$|#|    | *(?:\||```)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^ *(?:[*-]|\d+\.) ")
_STOP = re.compile(r"[.!?][)*_`\"]*(?=\s)")
_LAST_STOP = re.compile(r"[.!?:][)*_`\"]*$")
#: Findings of `relayd check` that look like keys.
CODES = {f"remote_run.{code}" for code in ("command", "writable", "sudo", "helper")}


def _anchors(text: str) -> Iterator[str]:
    for heading in _HEADING.finditer(text):
        kept = re.sub(r"[^\w\- ]", "", heading["title"].lower())
        yield kept.strip().replace(" ", "-")


def _named(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link names an existing file, and an existing heading in it."""
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
def test_names_exist(document: Path) -> None:
    """Files of the source tree, targets of make and metrics in a document exist."""
    text = document.read_text()
    makefile = (ROOT / "Makefile").read_text()
    metrics = Metrics().render().decode()
    # Words in capitals are placeholders.
    places = [path for path in _PLACE.findall(text) if not re.search("[A-Z]{3}", Path(path).stem)]
    missing = [path for path in places if not (ROOT / path).exists()]
    missing += [name for name in _TARGET.findall(text) if f"\n{name}:" not in makefile]
    missing += [name for name in _METRIC.findall(text) if name not in metrics]
    assert missing == []


def test_every_document_is_listed() -> None:
    """The README links to every document."""
    readme = (ROOT / "README.md").read_text()
    assert [
        one for one in set(map(_named, DOCUMENTS)) - {"README.md"} if f"({one})" not in readme
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_keys_exist(document: Path) -> None:
    """Each configuration key in a document exists; a star matches any part of a key."""
    keys = {key for key, _ in leaves(Settings())} | LOGGING
    tables = {key.rpartition(".")[0] for key in keys}
    named = set(_KEY.findall(document.read_text()))
    if document.name == "check.md":
        named -= CODES
    assert [one for one in named if not fnmatch.filter(keys | tables, one)] == []


def test_defaults_are_documented() -> None:
    """docs/configuration.md lists each key of main.conf once, with its default in the code."""
    rows = _ROW.findall((ROOT / "docs/configuration.md").read_text())
    documented = {key: default for key, _, default in rows if key not in LOGGING}
    defaults = dict(leaves(Settings()))
    assert sorted(key for key, _, _ in rows) == sorted({*documented, *LOGGING})
    assert documented.keys() == defaults.keys()
    wrong = {
        key: text
        for key, text in documented.items()
        if key not in IN_WORDS and not _is_default(text.strip("`"), defaults[key])
    }
    assert wrong == {}


def _is_default(text: str, value: object) -> bool:
    """Return whether a word of the table represents a value."""
    match value:
        case None:
            return text == "unset"
        case bool():
            return text == str(value).lower()
        case float():
            return parse_duration(text) == value
        case Secret():
            return text == value.reveal()
        case Listen():
            return text == f"{value.host}:{value.port}"
        case Path():
            return text.rstrip("/") == str(value)
        case "" | ():
            return text in {"empty", "[]"}
        case _:
            return text == str(value)


def test_all_metrics_are_documented() -> None:
    """docs/metrics.md has a row for each metric of relayd."""
    page = (ROOT / "docs/metrics.md").read_text()
    text = Metrics().render().decode()
    metrics = set(re.findall(r"^# TYPE (rudder_relayd_\w+)", text, re.MULTILINE))
    explained = set(re.findall(r"^\| `(rudder_relayd_[a-z_]+)", page, re.MULTILINE))
    assert explained == metrics


def test_all_reasons_are_documented() -> None:
    """docs/guide.md has a fix for each reason for which a file is refused."""
    _, _, table = (ROOT / "docs/guide.md").read_text().partition("| reason | the file |")
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(Reason)


def test_all_packages_are_documented() -> None:
    """docs/architecture.md describes each top-level module and package."""
    _, _, table = (ROOT / "docs/architecture.md").read_text().partition("## Where things are")
    named = re.findall(r"^\| `([\w*]+(?:\.py|/))`", table, re.MULTILINE)
    packages = [
        path.name + "/" * path.is_dir()
        for path in (ROOT / "relayd").iterdir()
        if (path.suffix == ".py" or path.is_dir()) and not path.name.startswith("__")
    ]
    assert [name for name in packages if not any(fnmatch.fnmatch(name, one) for one in named)] == []
    assert [one for one in named if not fnmatch.filter(packages, one)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_options_exist(document: Path) -> None:
    """Commands and options of relayd in examples and text exist in the programs."""
    text = document.read_text()
    lines = re.findall(r"`((?:make|relayd|rudder-relayd) [^`\n]+)`", text)
    for block in _BLOCK.findall(text):
        whole = block.replace("\\\n", " ")
        lines += re.findall(r"^ *[$#] ((?:make|relayd|rudder-relayd) .*)$", whole, re.MULTILINE)
    unknown = [
        f"{line}: {one}" for line in lines for one in _unknown_options(shlex.split(line, True))
    ]
    assert unknown == []


def _unknown_options(words: list[str]) -> list[str]:
    match words:
        case ["make", "demo", argument] if argument.startswith("ARGS="):
            return _unknown_options(["relayd", "demo", *shlex.split(argument[5:])])
        case ["rudder-relayd", *arguments]:
            return _missing(rudder_relayd, arguments)
        case ["relayd", name, *arguments]:
            return _unknown_of(main, [name, *arguments])
        case _:
            return []


def _unknown_of(group: click.Group, words: list[str]) -> list[str]:
    """Return what a command and the commands below it do not know."""
    name, *arguments = words
    command = group.get_command(click.Context(group), name)
    if command is None:
        return [name]
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        return _unknown_of(command, arguments)
    return _missing(command, arguments)


def _missing(command: click.Command, arguments: list[str]) -> list[str]:
    known = {option for one in command.params for option in one.opts}
    known |= set(command.context_settings.get("help_option_names", ["-h", "--help"]))
    return [one for one in arguments if one.startswith("-") and one not in known]


@pytest.mark.parametrize(
    "document", [one for one in DOCUMENTS if _named(one) not in GENERATED], ids=_named
)
def test_each_sentence_has_a_line_of_its_own(document: Path) -> None:
    """Prose has one sentence per line, so that a diff shows the sentences that changed."""
    assert list(_misplaced_line_ends(document.read_text())) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One sentence.\nAnother one.\n", []),
        ("Two sentences. In one line.\n", [1]),
        ("*A title.* And a sentence.\n\n(One.) Two.\n", [1, 3]),
        ("A sentence that is\nwrapped.\n", [1]),
        ("* An item,\n  wrapped.\n* A title\n* One. Two.\n", [1, 4]),
        ("1. An item.\n   Its second sentence.\n", []),
        ("## A heading. With a stop\n\n| a table. | Likewise |\n", []),
        ("An example:\n\n    some code. That is\n    indented\n", []),
        ("Before:\n\n```\nfenced. Code\nin lines\n```\n\nAfter\n", []),
        ("Code `in. Line` counts as a word, and 1.5 is a number.\n", []),
        ("A list follows\n\n* an item\n", []),
    ],
)
def test_misplaced_line_ends_are_found(text: str, lines: list[int]) -> None:
    """Both faults are found in paragraphs and lists, and not in headings, tables and code."""
    assert [int(one.partition(":")[0]) for one in _misplaced_line_ends(text)] == lines


def _misplaced_line_ends(text: str) -> Iterator[str]:
    """Yield lines that contain an end of a sentence, or end in the middle of one."""
    fenced = _FENCE.sub(lambda found: re.sub("[^\n]+", "```", found[0]), text)
    lines = [*fenced.splitlines(), ""]
    for number, (line, following) in enumerate(pairwise(lines), 1):
        if _NO_PROSE.match(line):
            continue
        prose = re.sub(r"`[^`]*`", "`", _ITEM.sub("", line))
        wrapped = not (_NO_PROSE.match(following) or _ITEM.match(following))
        if _STOP.search(prose) or (wrapped and not _LAST_STOP.search(prose)):
            yield f"{number}: {line}"


#: The name under which agents upload a run log.
_UPLOADED = "2026-03-01T10:00:01+00:00@node1.log.gz"
_NAME_OF_RUN_LOG = re.compile(r"\d[\w.:+-]+@[\w-]+\.log(?:\.\w+)?\b")
_FAILED_GLOB = re.compile(r"failed/(?P<glob>[\w.@:+-]*\*[\w.*]*)")
_LOGGED = re.compile(
    r"(?:INFO|WARN|ERROR) +\w+: (?P<event>[\w ,;-]+?) \w+=.*?"
    r" file=(?P<file>\S+) queue_id=(?P<id>\S+)"
)


def _examples() -> str:
    """Return all that shows commands and log lines: documents, man pages and help texts."""
    man_pages = (path.read_text().replace("\\", "") for path in ROOT.glob("man/*.in"))
    context = click.Context(main)
    helps = (command.get_help(context) for command in main.commands.values())
    return "\n".join([*(path.read_text() for path in DOCUMENTS), *man_pages, *helps])


@pytest.mark.fault("F43")
def test_examples_are_named_as_agents_name_their_run_logs() -> None:
    """Names, patterns and log lines of examples are those that an operator finds on the disk."""
    text = _examples()
    names = set(_NAME_OF_RUN_LOG.findall(text))
    assert names
    for name in names:
        assert isinstance(parse_name(name), RunLogName), name
        assert name.endswith(".log.gz"), name
    patterns = set(_FAILED_GLOB.findall(text))
    assert patterns
    assert [one for one in patterns if not fnmatch.fnmatch(_UPLOADED, one)] == []
    source = "".join(path.read_text() for path in (ROOT / "relayd").rglob("*.py"))
    logged = list(_LOGGED.finditer(text))
    assert logged
    for line in logged:
        assert f'"{line["event"]}"' in source
        assert queue_id(line["file"]) == line["id"]
    shown = set(re.findall(r"queue_id=([0-9A-F]{8,})", text))
    assert shown <= {queue_id(name) for name in names}
