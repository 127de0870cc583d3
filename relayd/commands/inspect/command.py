"""The command `relayd inspect`."""

from pathlib import Path

import click

from relayd.commands.console import plain_console
from relayd.commands.daemon import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE
from relayd.commands.inspect.content import describe
from relayd.commands.inspect.show import as_json, show
from relayd.commands.inspect.trust import GivenCertificates, read_given
from relayd.commands.inspect.verdict import Criteria, configured, explain, judge
from relayd.config.main_conf import ReportingSettings
from relayd.errors import Gone, NodesError, Retry, StartError
from relayd.runlog.model import RunLog
from relayd.system.printable import printable


@click.command("inspect", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar=DIRECTORY_VARIABLE,
    show_envvar=True,
    help="Use the nodes, certificates, and limits of this configuration "
    f"[default: {DEFAULT_DIRECTORY}, if it exists].",
)
@click.option(
    "--certs",
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Trust the certificates in this file instead, and ignore the nodes list.",
)
@click.option("--json", "machine", is_flag=True, help="Print one line of JSON for each file.")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(
    directory: Path | None, certs: Path | None, *, machine: bool, files: tuple[Path, ...]
) -> int:
    """Show what relayd would do with run-log files, and why.

    Nothing is moved, inserted or sent. The exit code is 0 if every FILE would be accepted.
    """
    criteria = _criteria(directory, certs)
    accepted = [_inspect(path, criteria, machine=machine) for path in files]
    return 0 if all(accepted) else 1


def _inspect(path: Path, criteria: Criteria, *, machine: bool) -> bool:
    """Print the inspection of one file; return whether it would be accepted."""
    verdict = judge(path, criteria)
    if machine:
        click.echo(as_json(describe(path, verdict, criteria)))
    elif isinstance(verdict, Retry | Gone):
        click.echo(f"error: {printable(str(path))}: {explain(verdict)}", err=True)
    else:
        with plain_console() as console:
            show(console, describe(path, verdict, criteria))
    return isinstance(verdict, RunLog)


def _criteria(directory: Path | None, certs: Path | None) -> Criteria:
    """Return the criteria; write warnings about nodes and certificates to standard error."""
    if directory is None and certs is None and DEFAULT_DIRECTORY.is_dir():
        directory = DEFAULT_DIRECTORY
    try:
        criteria, warnings = configured(directory) if directory else _unconfigured()
        if certs:
            given, warnings = read_given(certs)
            criteria = Criteria(given, criteria.max_size, criteria.skip_event_types)
    except NodesError as error:
        raise StartError(str(error)) from error
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return criteria


def _unconfigured() -> tuple[Criteria, list[str]]:
    advice = "no certificates to verify signatures with, use -c or --certs"
    return Criteria(GivenCertificates(()), ReportingSettings().max_size, frozenset(), advice), []
