"""The command `relayd status`."""

import shutil
import sys
import time
from pathlib import Path
from typing import Final

import click

from relayd.commands.cli import Program, directory_option
from relayd.commands.installation import Installation, find_installation
from relayd.commands.status.offline import offline_overview
from relayd.commands.status.screen import WIDTH, status_lines
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import RelaydError, StartError
from relayd.overview.documents import as_document, from_document, json_line
from relayd.overview.model import Overview
from relayd.system.printable import printable

EXIT_WELL: Final = 0
EXIT_UNWELL: Final = 1
EXIT_NOT_RUNNING: Final = 3
#: Seconds between two looks, and for an answer.
_EVERY_S: Final = 2.0
_PATIENCE_S: Final = 5.0
_ANOTHER: Final = ControlError("relayd is another version, with another answer")
_CLEAR: Final = "\x1b[H\x1b[J"


@click.command("status", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@directory_option
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until interrupted.")
@click.option("--json", "machine", is_flag=True, help="Print a JSON document.")
def command(directory: Path, *, watch: bool, machine: bool) -> int:
    """Say whether relayd is well, what waits, what was refused, and what to do.

    The exit code is 0 while relayd keeps up, is paused, or has a backlog that shrinks; 1 while
    somebody should look; 3 if it does not run.
    """
    site = find_installation(directory)
    if not watch:
        return _show(site, machine=machine)
    while True:
        if sys.stdout.isatty() and not machine:
            click.echo(_CLEAR, nl=False)
        _show_anyway(site, machine=machine)
        time.sleep(_EVERY_S)


def _show_anyway(site: Installation, *, machine: bool) -> None:
    """Show it, or why that is not possible, which may be different two seconds later."""
    try:
        _show(site, machine=machine)
    except StartError as error:
        click.echo(printable(str(error)), err=machine)


def _show(site: Installation, *, machine: bool) -> int:
    overview = ask(site)
    if machine:
        click.echo(json_line(as_document(overview)))
    else:
        columns = max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        for line in status_lines(overview, columns):
            click.echo(line)
    return exit_code(overview)


def ask(site: Installation) -> Overview:
    """Return the overview; what the spool itself shows if relayd cannot be asked.

    Raises:
        StartError: this user may use neither.
    """
    control = Control(site.socket, patience=_PATIENCE_S)
    why: RelaydError = _ANOTHER
    try:
        return from_document(control.get("/status"), Overview)
    except ValueError:
        pass
    except (NotRunningError, NotPermittedError, ControlError) as error:
        why = error
    return offline_overview(site.needed(why), str(why))


def exit_code(overview: Overview) -> int:
    """Return the exit code for a state."""
    match overview.state:
        case "keeping_up" | "paused":
            return EXIT_WELL
        case "behind":
            return EXIT_UNWELL if overview.backlog.grows else EXIT_WELL
        case "not_running":
            return EXIT_NOT_RUNNING
        case _:
            return EXIT_UNWELL
