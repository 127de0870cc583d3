"""The command `relayd check`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import trio
from rich.console import Console

from relayd.commands.check.account import SERVICE_USER, Account, find_account
from relayd.commands.check.model import CheckReport
from relayd.commands.check.report import as_json, as_lines, show
from relayd.commands.check.runner import Progress, examine
from relayd.commands.cli import directory_option


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@directory_option
@click.option(
    "--user",
    "name",
    metavar="NAME",
    help="The user that relayd runs as; root checks the permissions of this user "
    f"[default: {SERVICE_USER} if that user exists, else the current user].",
)
@click.option(
    "--web-user",
    "web",
    metavar="NAME",
    help="The user that the web server runs as [default: the user of a running Apache or nginx].",
)
@click.option("--json", "machine", is_flag=True, help="Print a JSON document.")
def command(directory: Path, name: str | None, web: str | None, *, machine: bool) -> int:
    """Find faults in an installation and say how to fix them.

    Checks the configuration, whether relayd runs, files and their permissions, control socket,
    state directory, spool, what is paused or on hold, web server, nodes, certificates, database,
    upstream, remote run, OpenSSL and the clock. Changes nothing; relayd may be running. The exit
    code is 1 if there is an error; warnings do not count. A relayd that is not running is an error
    once files wait for it.
    """
    report = _examine(directory, _account(name), None if web is None else _account(web))
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
        raise click.UsageError(f"User {name} does not exist.") from None


def _examine(directory: Path, account: Account, web: Account | None) -> CheckReport:
    """Run the checks; show their progress on the standard error if that is a terminal."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    return trio.run(_until_interrupted, directory, account, web, console)


@contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    if not console.is_terminal:
        yield lambda _pending: None
        return
    with console.status("Checking") as status:
        yield lambda pending: status.update(f"Checking {', '.join(pending)}")


async def _until_interrupted(
    directory: Path, account: Account, web: Account | None, console: Console
) -> CheckReport:
    """Examine; SIGINT cancels, so that the terminal and what was opened are left in order."""
    report: CheckReport | None = None
    with trio.open_signal_receiver(signal.SIGINT) as signals, _shown(console) as progress:
        async with trio.open_nursery() as nursery:

            async def run_signals() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(run_signals, name="signals")
            report = await examine(directory, account, progress, web)
            nursery.cancel_scope.cancel()
    if report is None:
        raise click.Abort
    return report
