"""Write the man pages from their templates in man/*.in and from the program itself.

    python -m tools.manpages DIR        write all pages to DIR

Options and commands come from the command line's help, keys and their defaults from the commented
files in conf/, so the pages cannot become stale. A template names them on separate lines:

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
#: 2026-01-01, if SOURCE_DATE_EPOCH is not set.
_EPOCH: Final = "1767225600"

_COMMANDS: Final = {"relayd": cli.main, "rudder-relayd": cli.rudder_relayd}
_PLACEHOLDER: Final = re.compile(r"@(?P<name>[A-Z]+)(?: (?P<of>\S+))?@")
_TABLE: Final = re.compile(r"\[(?P<name>[\w.]+)\]")
_KEY: Final = re.compile(r"(?:# )?(?P<name>[a-z0-9_]+) = (?P<value>.+)")
_SENTENCE: Final = re.compile(r"(?<=[.!?]) (?=[A-Z\[])|  +")
_NO_DEFAULT: Final = "(no default"


def escape(text: str) -> str:
    """Return text that mdoc shows unchanged, for use inside a line."""
    return (
        _plain(text)
        .replace("\\", "\\e")
        .replace("-", "\\-")
        .replace('"', "\\(dq")
        .replace("`", "\\(ga")
    )


def _plain(text: str) -> str:
    """Return text without the ellipsis, which terminals of the C locale cannot show."""
    return text.replace("…", "...")


def _line(text: str) -> str:
    """Return a line of running text, which mdoc must not take for a request."""
    shown = _plain(text).replace("\\", "\\e")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown


def _paragraphs(text: str) -> Iterator[str]:
    """Yield prose as mdoc lines, one per sentence, with requests between paragraphs."""
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
    """Yield the options of one command, as in its help."""
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
    """Yield every command of a program: usage, description, options."""
    group = _COMMANDS[name]
    assert isinstance(group, click.Group)
    yield from _commands_of(group, _context(group, name))


def _commands_of(group: click.Group, parent: click.Context) -> Iterator[str]:
    for child in group.list_commands(parent):
        command = group.get_command(parent, child)
        assert command is not None
        context = _context(command, child, parent)
        usage = " ".join(escape(piece) for piece in command.collect_usage_pieces(context))
        yield f".Ss {escape(context.command_path)} {usage}"
        yield from _paragraphs(inspect.cleandoc(command.help or ""))
        yield from _option_list(command, context)
        if isinstance(command, click.Group):
            yield from _commands_of(command, context)


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
    """Yield one key: its comment, with lists unchanged, and its default."""
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


def _system() -> Iterator[str]:
    yield f".Os relayd {__version__}"


#: Placeholder → its text.
_FILLERS: Final[dict[str, Callable[[], Iterable[str]]]] = {"DATE": _date, "OS": _system}
#: Placeholder with an argument → its text.
_FILLERS_OF: Final[dict[str, Callable[[str], Iterable[str]]]] = {
    "COMMANDS": _commands,
    "KEYS": _keys,
    "OPTIONS": _options,
}


def fill(template: str) -> str:
    """Return the man page for a template.

    Raises:
        KeyError: the template has an unknown placeholder, or one without its argument.
    """
    lines: list[str] = []
    for line in template.splitlines():
        if found := _PLACEHOLDER.fullmatch(line):
            name, of = found["name"], found["of"]
            texts = _FILLERS_OF[name](of) if of else _FILLERS[name]()
            lines += [text for text in texts if text]
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
