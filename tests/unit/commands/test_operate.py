"""docs/operate.md shows commands that exist, and every name of their JSON."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import pytest

from relayd.commands.cli import main
from relayd.commands.failed import show
from relayd.commands.run.results import Results
from relayd.commands.run.show import summary_as_json
from relayd.overview import model, nodes, one_node
from relayd.overview.documents import json_line
from relayd.spool.failed.refusals import Group, Refusal
from relayd.spool.failed.returning import Done
from relayd.spool.layout import Spool
from relayd.spool.operations import shape, views
from tests.support.project import ROOT

PAGE: Final = (ROOT / "docs/operate.md").read_text()
_FENCE = re.compile(r"^( *)```(?:console)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `(?P<of>[^|]+)` \| (?P<names>`[^|]+`) \|$", re.MULTILINE)
_REFUSAL = Refusal(Path("/f"), Spool(Path("/"), (), frozenset()), "f", "archive", "", "", 0.0, 0)
_GROUP = Group("archive", 1, 1, 1, 0.0, "")


def test_json_is_compact_ascii_on_one_line() -> None:
    """All commands print JSON alike; a terminal obeys nothing in it, and nothing is lost."""
    value = {"name": "café\x1b\x7f\x9b\n", "files": [1, 2.5, None]}
    line = json_line(value)
    assert line.startswith('{"name":"caf')
    assert line.endswith('","files":[1,2.5,null]}')
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value
    using = [
        path.name
        for path in (ROOT / "relayd" / "commands").rglob("*.py")
        if "demo" not in path.parts
        and re.search(r"json\.dumps|(echo|_print)\(.*json\.encode", path.read_text())
    ]
    assert sorted(using) == ["access.py", "masking.py"]  # neither prints


def _command_lines() -> list[str]:
    return [
        line
        for _indent, block in _FENCE.findall(PAGE)
        for line in re.findall(r"^ *\$ (relayd .*)$", block, re.MULTILINE)
    ]


@pytest.mark.parametrize("line", _command_lines())
def test_each_command_line_is_understood(line: str) -> None:
    """The parser takes all words of each example, and knows the values of its options."""
    _program, *words = shlex.split(line)
    group: click.Group = main
    context = click.Context(main, info_name="relayd")
    while True:
        name, *words = words
        command = group.get_command(context, name)
        assert command is not None, name
        if not isinstance(command, click.Group):
            break
        group, context = command, click.Context(command, info_name=name, parent=context)
    command.make_context(name, words, parent=context)


def test_lines_of_screens_fit_eighty_columns() -> None:
    """No screen is wider than the narrowest terminal, but for names of files."""
    wide = [
        line
        for indent, block in _FENCE.findall(PAGE)
        for line in block.splitlines()
        if len(line) - len(indent) > 80 and not re.search(r"\.log\.gz| │ |^(INFO|\{|\$)", line)
    ]
    assert [line for line in wide if "relay failed" not in line] == []


def _names_of(json_line: str) -> list[str]:
    return list(json.loads(json_line))


def _fields(*kinds: type[msgspec.Struct]) -> list[str]:
    return [field for kind in kinds for field in kind.__struct_fields__]


#: Where names stand in the JSON of a command → the names.
NAMES: Final[dict[str, list[str]]] = {
    "status": _fields(model.Overview),
    "status: flow": _fields(model.Flow),
    "status: backlog": _fields(model.Backlog),
    "status: lag": _fields(model.Lag),
    "status: outputs": _fields(model.OutputState),
    "status: nodes": _fields(model.NodesState),
    "status: failed": _fields(model.FailedState),
    "status: pause": _fields(model.Pause),
    "status: warned": _fields(model.Warned),
    "status: warned.last": _fields(model.LoggedLine),
    "nodes": _fields(nodes.NodesPage),
    "nodes: rows, node: row": _fields(nodes.NodeRow),
    "node": _fields(one_node.NodeDetail),
    "node: certificates": _fields(one_node.CertificateFacts),
    "node: waiting, failed": _fields(one_node.FileFacts),
    "node: hops": _fields(one_node.HopState),
    "queue list, show": _fields(views.FileView),
    "queue shape": _fields(shape.Shape),
    "shape: total, nodes, relays": _fields(shape.Row),
    "queue hold, release, retry, drop": _fields(views.Report),
    "hold, release, retry, drop: stayed": _fields(views.Stayed),
    "failed list": _names_of(show.group_as_json(_GROUP)),
    "failed show": _names_of(show.refusal_as_json(_REFUSAL)),
    "failed replay, drop": _names_of(show.done_as_json(Done(_REFUSAL, "back"))),
    "pause": _fields(model.Pause),
    "resume": ["resumed", "pause"],
    "run, the last line": _names_of(summary_as_json(Results(), 0.0, complete=True)),
}


def test_each_name_of_json_is_documented_and_exists() -> None:
    """The table has every name that a command prints, in that order, and no other."""
    _, _, section = PAGE.partition("## Names in JSON")
    section, _, _ = section.partition("\n## ")
    documented: dict[str, Any] = {
        row["of"]: re.findall(r"`([^`]+)`", row["names"]) for row in _ROW.finditer(section)
    }
    assert documented == NAMES
