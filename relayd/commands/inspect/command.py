"""The command `relayd inspect`."""

from pathlib import Path
from typing import Final

import click
from rich.console import Console

from relayd.commands.cli import DEFAULT_DIRECTORY
from relayd.commands.inspect.show import as_json, show
from relayd.commands.inspect.trust import ConfiguredTrust, NoTrust, Trust, read_given
from relayd.commands.inspect.verdict import Rules, Verdict, judge
from relayd.config.main_conf import Reporting, load_settings
from relayd.errors import NodesError, StartError
from relayd.fleet.nodes import load_nodes
from relayd.runlog.filename import queue_id
from relayd.system.printable import printable

#: Columns of what is not shown on a terminal.
_FILE_WIDTH: Final = 160


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Take nodes, certificates, and limits from this configuration "
    f"[default: {DEFAULT_DIRECTORY}, if it is there].",
)
@click.option(
    "--certs",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Trust the certificates of this file instead; the nodes list does not matter then.",
)
@click.option("--json", "machine", is_flag=True, help="Print one line of JSON for each file.")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(
    directory: Path | None, certs: Path | None, *, machine: bool, files: tuple[Path, ...]
) -> int:
    """Say what relayd would do with run-log files, and why.

    Nothing is moved, inserted or sent. The exit code is 0 if every FILE would be accepted.
    """
    rules = _rules(directory, certs)
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    accepted = [_inspect(path, rules, console, machine=machine) for path in files]
    return 0 if all(accepted) else 1


def _inspect(path: Path, rules: Rules, console: Console, *, machine: bool) -> bool:
    """Print the verdict on one file; tells whether it would be accepted."""
    try:
        verdict = judge(path, rules)
    except OSError as error:
        verdict = Verdict(str(path), queue_id(path.name))
        verdict.error = f"cannot be read: {error.strerror}"
        if not machine:
            click.echo(f"error: {printable(str(path))}: {verdict.error}", err=True)
            return False
    if machine:
        click.echo(as_json(verdict))
    else:
        show(console, verdict)
    return verdict.error is None


def _rules(directory: Path | None, certs: Path | None) -> Rules:
    """Gather what to judge by; what is doubtful there is told on the standard error."""
    if directory is None and certs is None and DEFAULT_DIRECTORY.is_dir():
        directory = DEFAULT_DIRECTORY
    try:
        rules, warnings = _configured(directory) if directory else _unconfigured()
        if certs:
            trust, more = read_given(certs)
            rules = Rules(trust, rules.max_size, rules.skip_event_types)
            warnings = more
    except NodesError as error:
        raise StartError(str(error)) from error
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return rules


def _configured(directory: Path) -> tuple[Rules, list[str]]:
    settings, _warnings = load_settings(directory)
    general, reporting = settings.general, settings.processing.reporting
    loaded = load_nodes(general.nodes_list_file, general.nodes_certs_file, settings.node_id())
    missing = [f"{general.nodes_list_file} is not there"] if loaded.list_missing else []
    trust: Trust = ConfiguredTrust(loaded.nodes)
    skip = frozenset(reporting.skip_event_types)
    return Rules(trust, reporting.max_size, skip), [*missing, *map(str, loaded.warnings)]


def _unconfigured() -> tuple[Rules, list[str]]:
    return Rules(NoTrust(), Reporting().max_size, frozenset()), []
