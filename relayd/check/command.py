"""The command `relayd check`."""

from pathlib import Path

import click
import trio
from rich.console import Console

from relayd.check.account import SERVICE_USER, Account, find_account
from relayd.check.examine import examine
from relayd.check.model import Report
from relayd.check.report import as_json, as_lines, show
from relayd.cli import directory_option


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@directory_option
@click.option(
    "--user",
    "name",
    metavar="NAME",
    help="The user that relayd runs as; as root, rights are tried as this user "
    f"[default: {SERVICE_USER}, if there is one, else the current user].",
)
@click.option("--json", "machine", is_flag=True, help="Print a JSON document.")
def command(directory: Path, name: str | None, *, machine: bool) -> int:
    """Look for what is wrong with an installation, and say how to mend it.

    Looks at configuration, files and their rights, spool, nodes, certificates, database, upstream,
    remote run and clock. Nothing is changed, relayd may run meanwhile. The exit code is 1 if
    anything must be mended; a warning is none.
    """
    report = _examine(directory, _account(name))
    console = Console(highlight=False, markup=False, emoji=False)
    if machine:
        click.echo(as_json(report))
    elif console.is_terminal:
        show(console, report)
    else:
        for line in as_lines(report):
            click.echo(line)
    return 0 if report.sound else 1


def _account(name: str | None) -> Account:
    try:
        return find_account(name)
    except KeyError:
        raise click.UsageError(f"There is no user {name}.") from None


def _examine(directory: Path, account: Account) -> Report:
    """Run the checks, with their progress on the standard error if that is a terminal."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        return trio.run(examine, directory, account, lambda _pending: None)
    with console.status("Checking") as status:
        return trio.run(
            examine,
            directory,
            account,
            lambda pending: status.update(f"Checking {', '.join(pending)}"),
        )
