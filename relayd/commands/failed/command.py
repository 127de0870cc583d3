"""The command `relayd failed`."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import track

from relayd.commands.asking import ask, file_names, optional_duration
from relayd.commands.cli import ProgramGroup, directory_option
from relayd.commands.completion import complete_node
from relayd.commands.console import output_width, plain_console
from relayd.commands.failed import show
from relayd.commands.failed.replay import Judge, examine
from relayd.commands.inspect.verdict import configured, judge
from relayd.commands.installation import Installation, find_installation
from relayd.config.main_conf import Settings
from relayd.errors import NodesError
from relayd.fleet.finding import find_nodes
from relayd.fleet.loading import load_list
from relayd.spool.failed.listing import Asked, Listed, as_refusal, list_refusals
from relayd.spool.failed.refusals import ADVICE, Group, Refusal, grouped, read_refusals
from relayd.spool.failed.returning import SUCCESS, Done, Returned, as_returned, bring_back, drop
from relayd.spool.layout import spools_of
from relayd.system.printable import printable, shown

#: Files in one request: relayd accepts a body of 1 MiB.
_AT_ONCE: Final = 1500

Refusals = Sequence[Refusal]

_NOTHING: Final = "No such file was refused."

Function = TypeVar("Function", bound=Callable[..., Any])


def _since(context: click.Context, parameter: click.Parameter, value: str | None) -> float:
    """Return the Unix time of a duration before now; 0 if none is given."""
    seconds = optional_duration(context, parameter, value)
    return 0.0 if seconds is None else time.time() - seconds


_CHOICE: Final = (
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        metavar="REASON",
        type=click.Choice(list(ADVICE)),
        help="Only files with this reason, one of the first column of the list; repeatable.",
    ),
    click.option(
        "--node",
        "nodes",
        multiple=True,
        metavar="NODE",
        shell_complete=complete_node,
        help="Only files of this node: id, host name or a unique part; repeatable.",
    ),
    click.option(
        "--since",
        metavar="DURATION",
        callback=_since,
        help='Only files that were refused in this time until now, as "2h" or "3 days".',
    ),
)
_json_option = click.option("--json", "machine", is_flag=True, help="Print lines of JSON.")
_all_option = click.option("--all", "everything", is_flag=True, help="Do it for all refused files.")
_trial_option = click.option(
    "--dry-run", "trial", is_flag=True, help="Only say what would be done."
)
_names_argument = click.argument("names", metavar="[FILE]…", nargs=-1, type=click.UNPROCESSED)


def _choosing(function: Function) -> Function:
    """Add the options that choose files."""
    for option in reversed(_CHOICE):
        function = option(function)
    return directory_option(function)


@click.group(
    "failed",
    cls=ProgramGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """List refused files, move them back, or remove them.

    They lie in the directories "failed" of the spools, each with its reason next to it. All of this
    works whether relayd runs or not.
    """


@command.command("list", short_help="Count refused files by reason, with what to do.")
@_choosing
@_json_option
def list_(directory: Path, *, machine: bool, **chosen: Any) -> int:
    """Show how many files were refused for which reason, and what to do about them."""
    groups = _groups(directory, **chosen)
    if machine:
        _print(map(show.group_as_json, groups))
    elif not groups:
        click.echo("No refused files.")
    else:
        with plain_console() as console:
            show.show_groups(console, groups)
            hint = "relayd failed show [REASON|FILE], replay, drop"
            console.print(f"{show.total_of(groups)}. {hint}.")
    return 0


@command.command("show", short_help="Show each file: reason, node, when it was refused.")
@_choosing
@_json_option
@click.argument("names", metavar="[REASON|FILE]…", nargs=-1, type=click.UNPROCESSED)
def show_(directory: Path, names: tuple[str, ...], *, machine: bool, **chosen: Any) -> int:
    """Show each file: its reason in detail, its node, when it was refused."""
    chosen["reasons"] = (*chosen["reasons"], *(name for name in names if name in ADVICE))
    files = tuple(name for name in names if name not in ADVICE)
    _site, refusals = _chosen(directory, files, **chosen)
    if machine:
        _print(map(show.refusal_as_json, refusals))
    elif not refusals:
        click.echo(_NOTHING)
        if names and not chosen["nodes"]:
            click.echo("Files of a node: relayd failed show --node NODE; all: relayd failed list.")
    else:
        with plain_console() as console:
            show.show_refusals(console, refusals)
    return 0 if refusals or not names else 1


@command.command("replay")
@_choosing
@_all_option
@_trial_option
@_json_option
@_names_argument
def replay_(
    directory: Path,
    names: tuple[str, ...],
    *,
    everything: bool,
    trial: bool,
    machine: bool,
    **chosen: Any,
) -> int:
    """Move files back that would pass now, and say which would not.

    Each run log is examined as relayd would examine it. The exit code is 0 if all were moved.
    """
    _require_choice(names, everything=everything, **chosen)
    site, refusals = _chosen(directory, names, **chosen)
    steps = _progress(refusals, "Examining", quiet=machine)
    results = list(examine(steps, _judge(directory, site)))
    if not trial:
        passed = [result.refusal for result in results if result.outcome == "back"]
        rest = [result for result in results if result.outcome != "back"]
        results = [*_act(site, "replay", passed), *rest]
    _report(results, machine=machine, trial=trial)
    return 0 if all(result.outcome in SUCCESS for result in results) else 1


@command.command("drop")
@_choosing
@_all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@_trial_option
@_json_option
@_names_argument
def drop_(
    directory: Path,
    names: tuple[str, ...],
    *,
    everything: bool,
    yes: bool,
    trial: bool,
    machine: bool,
    **chosen: Any,
) -> int:
    """Remove files for good."""
    _require_choice(names, everything=everything, **chosen)
    site, refusals = _chosen(directory, names, **chosen)
    if not refusals:
        click.echo(_NOTHING, err=machine)
        return 0
    if trial:
        results = [Done(refusal, "removed") for refusal in refusals]
        if machine:
            _report(results, machine=True)
        else:
            click.echo(f"{show.total(refusals)} would be removed.")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask at; use --yes.")
        click.confirm(f"Remove {show.total(refusals)} for good?", abort=True, err=True)
    results = _act(site, "drop", refusals)
    _report(results, machine=machine)
    return 0 if all(result.outcome in SUCCESS for result in results) else 1


def _act(site: Installation, action: Literal["replay", "drop"], refusals: Refusals) -> list[Done]:
    """Let relayd move or remove files; do it here while none runs.

    Each file is moved by one system call, so both may be at work.
    """
    act = partial(map, bring_back) if action == "replay" else drop
    results: list[Done] = []
    for first in range(0, len(refusals), _AT_ONCE):
        some = {shown(str(one.path)): one for one in refusals[first : first + _AT_ONCE]}
        returned = ask(
            site,
            list[Returned],
            lambda control, some=some: control.post(f"/failed/{action}", {"files": [*some]}),  # type: ignore[misc]
            lambda _settings, some=some: [as_returned(done) for done in act(some.values())],  # type: ignore[misc]
            locked=False,
        )
        results += [Done(some[one.file], one.outcome, "", one.detail) for one in returned]
    return results


def _require_choice(names: Sequence[str], *, everything: bool, **chosen: Any) -> None:
    """Refuse to change all files because an option was forgotten."""
    some = bool(names or chosen["reasons"] or chosen["nodes"] or chosen["since"])
    if some == everything:
        problem = "--all contradicts the choice of some." if some else "choose files, or use --all."
        raise click.UsageError(problem)


def _groups(directory: Path, **chosen: Any) -> list[Group]:
    """Return the files that are meant, by reason."""
    if any(chosen.values()):
        return grouped(_chosen(directory, **chosen)[1])
    return ask(
        find_installation(directory),
        list[Group],
        lambda control: control.get("/failed"),
        lambda settings: grouped(read_refusals(spools_of(settings))),
        locked=False,
    )


def _chosen(
    directory: Path,
    names: Sequence[str] = (),
    *,
    reasons: Sequence[str],
    nodes: Sequence[str],
    since: float,
) -> tuple[Installation, list[Refusal]]:
    """Return the installation, and the refused files that are meant.

    They are read here while no relayd runs; that changes nothing, so it needs no lock.
    """
    site = find_installation(directory)
    asked = Asked(file_names(names), tuple(reasons), tuple(nodes), since)
    listed = ask(
        site,
        list[Listed],
        lambda control: control.post("/failed/list", msgspec.structs.asdict(asked)),
        lambda settings: _list(settings, asked),
        locked=False,
    )
    return site, list(map(as_refusal, listed))


def _list(settings: Settings, asked: Asked) -> list[Listed]:
    """Read the refused files that are meant; without a nodes list, host names are unknown."""
    try:
        listed = load_list(settings.general.nodes_list_file)
    except NodesError as error:
        if asked.nodes:
            click.echo(f"warning: host names are unknown: {error}", err=True)
        listed = {}
    hostnames = {node.id: node.hostname for node in listed.values()}
    find = partial(find_nodes, hostnames=hostnames)
    return list_refusals(spools_of(settings), asked, find, hostnames)


def _judge(directory: Path, site: Installation) -> Judge | None:
    """Return what examines run logs; None if they are not examined, on this machine or here."""
    if site.settings is None:
        later = "relayd examines the files once they are back"
        click.echo(f"warning: {site.unreadable}: {later}", err=True)
        return None
    if not site.settings.processing.reporting.examined_here:
        return None
    criteria, warnings = configured(directory)
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return lambda refusal: judge(refusal.path, criteria, refusal.name)


def _report(results: Sequence[Done], *, machine: bool, trial: bool = False) -> None:
    if machine:
        _print(map(show.done_as_json, results))
    else:
        _print(show.summary(results, trial=trial, width=output_width()) or [_NOTHING])


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _progress(refusals: Sequence[Refusal], what: str, *, quiet: bool) -> Iterable[Refusal]:
    """Yield the files; show the progress on the standard error if that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return refusals
    return track(refusals, what, console=console, transient=True)
