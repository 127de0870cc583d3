"""The commands `relayd pause` and `relayd resume`: stop the taking of files, and go on."""

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from relayd.commands.asking import ask, optional_duration
from relayd.commands.cli import Program, directory_option
from relayd.commands.console import output_width, with_command
from relayd.commands.installation import find_installation
from relayd.config.main_conf import Settings
from relayd.control.callers import myself
from relayd.overview.documents import as_document, json_line
from relayd.overview.model import Kind, named
from relayd.overview.sentence import moment
from relayd.overview.server import kinds_of
from relayd.pipelines.pausing import (
    KINDS,
    Paused,
    PauseFile,
    as_pause,
    begin_pause,
    end_pause,
    to_pause,
)
from relayd.system.printable import printable

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
_kind_argument = click.argument(
    "kind", metavar="[reporting|inventories]", type=click.Choice(list(KINDS)), required=False
)
_json_option = click.option("--json", "machine", is_flag=True, help="Print a JSON document.")


def _duration(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    seconds = optional_duration(context, parameter, value)
    if value is not None and seconds is not None and seconds <= 0:
        raise click.BadParameter(f"{printable(value)}: expected more than 0")
    return seconds


@click.command("pause", cls=Program, context_settings=_SETTINGS)
@directory_option
@_kind_argument
@click.option(
    "--for",
    "seconds",
    metavar="DURATION",
    callback=_duration,
    help='End the pause after this time, as "30min" or "2h"; else at relayd resume.',
)
@_json_option
def command(directory: Path, kind: Kind | None, seconds: float | None, *, machine: bool) -> int:
    """Stop taking files; uploads go on, and nothing is lost.

    Files stay in the spool until "relayd resume". A pause survives a restart of relayd. It can be
    made while relayd does not run as well.
    """
    asked = () if kind is None else (kind,)
    order = {"kinds": asked, "for": seconds}

    def offline(settings: Settings) -> dict[str, Any]:
        kinds = to_pause(asked, kinds_of(settings))
        file = PauseFile(settings.general.state_directory)
        return _document(begin_pause(file, kinds, myself().name(), seconds, time.time()))

    site = find_installation(directory)
    answer = ask(site, dict[str, Any], lambda control: control.post("/pause", order), offline)
    if machine:
        click.echo(json_line(answer))
        return 0
    now = time.time()
    until = f" until {moment(now + seconds, now)}" if seconds is not None else ""
    back = "relayd resume" if kind is None else f"relayd resume {kind}"
    kinds = asked or answer["kinds"]
    others = () if kind else [one for one in KINDS if one not in kinds]
    rest = f", and {named(others)} are not processed here" if others else ""
    text = f"Paused {named(kinds)}{until}; uploads go on{rest}. End this with:"
    *first, last = textwrap.wrap(text, output_width())
    for line in (*first, *with_command(last, back, output_width())):
        click.echo(line)
    return 0


@click.command("resume", cls=Program, context_settings=_SETTINGS)
@directory_option
@_kind_argument
@_json_option
def resume(directory: Path, kind: Kind | None, *, machine: bool) -> int:
    """Take files again after "relayd pause"."""
    kinds = KINDS if kind is None else (kind,)

    def offline(settings: Settings) -> dict[str, Any]:
        paused, ended = end_pause(PauseFile(settings.general.state_directory), kinds, time.time())
        return {"resumed": ended, "pause": _shown(paused)}

    answer = ask(
        find_installation(directory),
        dict[str, Any],
        lambda control: control.post("/resume", {"kinds": kinds}),
        offline,
    )
    resumed = answer["resumed"]
    if machine:
        click.echo(json_line(answer))
    elif resumed:
        click.echo(f"Taking {named(resumed)} again.")
    else:
        click.echo("Nothing was paused.")
    return 0


def _document(paused: Mapping[Kind, Paused]) -> dict[str, Any]:
    pause = as_pause(paused)
    assert pause is not None
    return as_document(pause)


def _shown(paused: Mapping[Kind, Paused]) -> dict[str, Any] | None:
    pause = as_pause(paused)
    return None if pause is None else as_document(pause)
