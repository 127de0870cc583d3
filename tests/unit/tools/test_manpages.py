"""The man pages are complete, correct and valid mdoc."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from relayd import __version__
from relayd.commands import cli
from relayd.config.main_conf import LoggingSettings, Settings, load_logging, load_settings
from relayd.config.toml import leaves
from tools.lock import REPOSITORY
from tools.manpages import escape, fill, write

PAGES = ("rudder-relayd.1", "relayd.1", "relayd.conf.5", "rudder-relayd-helper.8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all pages."""
    directory = tmp_path_factory.mktemp("man")
    assert {path.name for path in write(directory)} == set(PAGES)
    return directory


@pytest.fixture(scope="module")
def shown(pages: Path) -> dict[str, str]:
    """The rendered text of each page, in one line."""
    return {name: " ".join(render(pages / name).split()) for name in PAGES}


def render(page: Path) -> str:
    """Return a page as text, without bold and underlining."""
    command = ["mandoc", "-Tutf8", "-O", "width=400", str(page)]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return re.sub(r".\x08", "", text)


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield every spelling of every option of a command and its subcommands."""
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from parameter.opts
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from options(child, click.Context(child, info_name=name, parent=context))


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_has_no_warnings(pages: Path, name: str) -> None:
    """No page has a warning from mandoc."""
    command = ["mandoc", "-Tlint", "-W", "warning", str(pages / name)]
    found = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (found.stdout, found.returncode) == ("", 0)


@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_warnings(pages: Path, name: str) -> None:
    """No page has a warning from groff, even for an ASCII terminal."""
    command = ["groff", "-K", "utf8", "-mdoc", "-ww", "-z", "-Tascii", str(pages / name)]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("page", "command"), [("relayd.1", cli.main), ("rudder-relayd.1", cli.rudder_relayd)]
)
def test_page_names_every_option(shown: dict[str, str], page: str, command: click.Command) -> None:
    """Every option of the command line is on its page."""
    context = click.Context(command, info_name=command.name, **command.context_settings)
    words = set(re.split(r"[\s,|\[\]]+", shown[page]))
    assert set(options(command, context)) - words == set()


def test_page_of_the_helper_names_its_options(shown: dict[str, str]) -> None:
    """Every option of the root helper, and no other, is on its page."""
    command = [sys.executable, "-m", "relayd.remote_run.helper.main", "--help"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    named = re.findall(r"--[a-z-]+", shown["rudder-relayd-helper.8"])
    assert set(named) == set(re.findall(r"--[a-z-]+", text)) - {"--help"}


def test_page_names_every_command(shown: dict[str, str]) -> None:
    """Every command of `relayd` is on its page."""
    for name in cli.main.list_commands(click.Context(cli.main)):
        assert f" relayd {name} " in shown["relayd.1"]


@pytest.mark.parametrize("settings", [Settings(), LoggingSettings()], ids=["main", "logging"])
def test_page_names_every_key(pages: Path, settings: Any) -> None:
    """Every key of both configuration files, and no other, is in relayd.conf(5)."""
    part = keys(pages, "LOGGING" if isinstance(settings, LoggingSettings) else "MAIN")
    assert part.keys() == {key for key, _ in leaves(settings)} - {"warnings"}


def test_page_has_the_defaults_of_main_conf(pages: Path, tmp_path: Path) -> None:
    """A main.conf with the defaults from the page has the same settings as an empty one."""
    defaults = [f"{key} = {value}\n" for key, value in keys(pages, "MAIN").items() if value]
    own = 'general.node_id = "root"\n'
    loaded = []
    for text in (own, "".join([*defaults, own])):
        (tmp_path / "main.conf").write_text(text)
        (tmp_path / "main.conf").chmod(0o640)
        settings, warnings = load_settings(tmp_path)
        assert warnings == []
        loaded.append(settings)
    assert loaded[0] == loaded[1]


def test_page_has_the_defaults_of_logging_conf(pages: Path, tmp_path: Path) -> None:
    """A logging.conf with the defaults from the page has the same settings as an empty one."""
    defaults = [f"{key} = {value}\n" for key, value in keys(pages, "LOGGING").items() if value]
    assert len(defaults) >= 3
    (tmp_path / "logging.conf").write_text("".join(defaults))
    assert load_logging(tmp_path) == LoggingSettings()


def keys(pages: Path, part: str) -> dict[str, str]:
    """Return key → default ("" if it has none) from one section of relayd.conf(5)."""
    sections = (pages / "relayd.conf.5").read_text().split("\n.Sh ")
    [section] = (text for text in sections if text.startswith(f"{part}.CONF"))
    found = {}
    for item in section.split("\n.It Cm ")[1:]:
        default = re.search(r"^Default: \\fB(.*)\\fR$", item, re.MULTILINE)
        text = default[1].replace("\\(dq", '"').replace("\\-", "-") if default else ""
        found[item.splitlines()[0]] = text
    return found


def test_pages_have_version_and_date_of_the_source(
    pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page shows relayd's version and the date in SOURCE_DATE_EPOCH."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767312000")
    page = fill((REPOSITORY / "man" / "relayd.1.in").read_text(encoding="utf-8"))
    assert page.splitlines()[0] == ".Dd January 2, 2026"
    assert f".Os relayd {__version__}" in page


@pytest.mark.parametrize("text", ["a\\b", "-x --long", 'say "so"', "`quoted`", ".Nm \\fB"])
def test_escaped_text_is_shown_unchanged(tmp_path: Path, text: str) -> None:
    """Help texts and comments cannot contain macros or escapes."""
    page = tmp_path / "x.1"
    page.write_text(
        ".Dd January 1, 2026\n.Dt X 1\n.Os\n.Sh DESCRIPTION\n"
        f".Bd -literal\n\\&{escape(text)}\n.Ed\n"
    )
    assert f" {text}\n" in render(page)
