"""Write the man pages: what a person wrote, in man/*.in, and what the program itself knows.

    python -m tools.manpages DIR        write all pages to DIR

Options and commands come from the command line's own help, keys and their defaults from the
commented files in conf/, so a page cannot lag behind. A template names them on lines of their own:

    @OPTIONS rudder-relayd@     the options of a command
    @COMMANDS relayd@           its commands with theirs
    @KEYS conf/main.conf@       the keys of a configuration file

The format is mdoc, see mandoc_mdoc(7) and groff_mdoc(7).
"""

import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from relayd import __version__
from relayd.commands import cli
from tools.lock import REPOSITORY

TEMPLATES: Final = REPOSITORY / "man"
#: 2026-01-01, for trees without history.
_EPOCH: Final = "1767225600"

_COMMANDS: Final = {"relayd": cli.main, "rudder-relayd": cli.rudder_relayd}
_PLACEHOLDER: Final = re.compile(r"@(?P<what>[A-Z]+)(?: (?P<of>\S+))?@")
_TABLE: Final = re.compile(r"\[(?P<name>[\w.]+)\]")
_KEY: Final = re.compile(r"(?:# )?(?P<name>[a-z_]+) = (?P<value>.+)")
_SENTENCE: Final = re.compile(r"(?<=[.!?]) (?=[A-Z\[])|  +")
_NO_DEFAULT: Final = "(no default"


def escape(text: str) -> str:
    """Return text that mdoc shows as it is, for the inside of a line."""
    return (
        _plain(text)
        .replace("\\", "\\e")
        .replace("-", "\\-")
        .replace('"', "\\(dq")
        .replace("`", "\\(ga")
    )


def _plain(text: str) -> str:
    """Return text without the character that terminals of the C locale cannot show."""
    return text.replace("…", "...")


def _line(text: str) -> str:
    """Return a line of running text: no request, whatever it begins with."""
    shown = _plain(text).replace("\\", "\\e")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def _paragraphs(text: str) -> Iterator[str]:
    """Yield prose as mdoc lines, one a sentence, paragraphs set apart."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".Pp"
        joined = " ".join(paragraph.replace("\b", "").split())
        yield from map(_line, _SENTENCE.split(joined))


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _options(name: str) -> Iterator[str]:
    command = _COMMANDS[name]
    context = _context(command, name)
    yield from _option_list(command, context)


def _option_list(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the options of one command, as its help tells them."""
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and (record := parameter.get_help_record(context)) is not None
    ]
    yield ".Bl -tag -width Ds"
    for names, text in records:
        yield f".It {_option_names(names)}"
        yield from _paragraphs(text)
    yield ".El"


def _option_names(text: str) -> str:
    """Turn `-c, --config DIR` into mdoc macros."""
    shown = []
    for name in text.split(", "):
        flag, _, argument = name.partition(" ")
        macros = f"Fl {escape(flag.removeprefix('-'))}"
        shown.append(f"{macros} Ar {escape(argument)}" if argument else macros)
    return " , ".join(shown)


def _commands(name: str) -> Iterator[str]:
    """Yield every command of a group: usage, what it does, its options."""
    group = _COMMANDS[name]
    assert isinstance(group, click.Group)
    parent = _context(group, name)
    for child in group.list_commands(parent):
        command = group.get_command(parent, child)
        assert command is not None
        context = _context(command, child, parent)
        usage = " ".join(escape(piece) for piece in command.collect_usage_pieces(context))
        yield f".Ss {escape(name)} {escape(child)} {usage}"
        yield from _paragraphs(inspect.cleandoc(command.help or ""))
        yield from _option_list(command, context)


def _keys(path: str) -> Iterator[str]:
    """Yield every key of a commented configuration file, table by table."""
    table, opened = "", False
    comment: list[str] = []
    for line in (REPOSITORY / path).read_text(encoding="utf-8").splitlines():
        if found := _TABLE.fullmatch(line):
            table, comment = found["name"], []
            if opened:
                yield ".El"
            yield from (f".Ss {table}", ".Bl -tag -width Ds")
            opened = True
        elif not line:
            comment = []
        elif opened and (found := _KEY.fullmatch(line)):
            yield from _key(f"{table}.{found['name']}", found["value"], comment)
            comment = []
        else:
            comment.append(line.removeprefix("#").removeprefix(" "))
    if opened:
        yield ".El"


def _key(name: str, value: str, comment: list[str]) -> Iterator[str]:
    """Yield one key: its comment, lists in it as they are, and its default."""
    yield f".It Cm {name}"
    for listed, lines in itertools.groupby(comment, lambda line: line.startswith("  ")):
        if listed:
            yield from (".Bd -literal", *(escape(line) for line in lines), ".Ed")
        else:
            yield from _paragraphs(" ".join(lines))
    if not any(_NO_DEFAULT in line for line in comment):
        yield f"Default: \\fB{escape(value)}\\fR"


def _date() -> Iterator[str]:
    moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH)), UTC)
    yield f".Dd {moment:%B} {moment.day}, {moment.year}"


#: Placeholder → what stands for it.
_FILLERS: Final[dict[str, Callable[..., Iterable[str]]]] = {
    "COMMANDS": _commands,
    "DATE": _date,
    "KEYS": _keys,
    "OPTIONS": _options,
    "OS": lambda: [f".Os relayd {__version__}"],
}


def fill(template: str) -> str:
    """Return a man page made of a template.

    Raises:
        KeyError: the template has a placeholder of unknown name.
    """
    lines: list[str] = []
    for line in template.splitlines():
        if found := _PLACEHOLDER.fullmatch(line):
            arguments = [found["of"]] if found["of"] else []
            lines += [text for text in _FILLERS[found["what"]](*arguments) if text]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def write(directory: Path) -> list[Path]:
    """Write all pages to a directory and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for template in sorted(TEMPLATES.glob("*.in")):
        page = directory / template.stem
        page.write_text(fill(template.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(page)
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
