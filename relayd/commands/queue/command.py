"""The command `relayd queue`."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from relayd.commands.asking import ask, duration, file_names, lock_all
from relayd.commands.cli import ProgramGroup, directory_option
from relayd.commands.completion import complete_node
from relayd.commands.console import output_width
from relayd.commands.installation import find_installation
from relayd.commands.queue import show
from relayd.config.main_conf import Settings
from relayd.control.callers import myself
from relayd.control.client import Control
from relayd.errors import NodesError
from relayd.fleet.finding import find_nodes
from relayd.fleet.loading import load_list
from relayd.fleet.nodes import Nodes
from relayd.overview.documents import json_line
from relayd.spool.layout import spools_of
from relayd.spool.operations.choose import Choice
from relayd.spool.operations.queue import Queue
from relayd.spool.operations.shape import ROWS, Shape
from relayd.spool.operations.views import Action, Report, Waiting

#: Files of a list on a terminal.
LISTED: Final = 40

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")


_CHOICE: Final = (
    click.option(
        "--node",
        "nodes",
        multiple=True,
        metavar="NODE",
        shell_complete=complete_node,
        help="Only files of this node: id, host name or a unique part; repeatable.",
    ),
    click.option(
        "--match",
        multiple=True,
        metavar="PATTERN",
        help="Only files whose name matches, as in a shell: '2026-11-*'; repeatable.",
    ),
    click.option(
        "--older",
        metavar="DURATION",
        callback=duration,
        help='Only files at least this old, as "30min" or "2h".',
    ),
    click.option(
        "--newer", metavar="DURATION", callback=duration, help="Only files at most this old."
    ),
    click.option(
        "--by-arrival",
        is_flag=True,
        help="Count ages from the arrival of a file, not from its run; this takes longer.",
    ),
)
_json_option = click.option("--json", "machine", is_flag=True, help="Print lines of JSON.")
_all_option = click.option("--all", "everything", is_flag=True, help="Do it for all files.")
_trial_option = click.option(
    "--dry-run", "trial", is_flag=True, help="Only say what would be done."
)
_state_option = click.option(
    "--state", type=click.Choice(["waiting", "held"]), help="Only files in this state."
)
_names_argument = click.argument("names", metavar="[FILE]…", nargs=-1, type=click.UNPROCESSED)


def _choosing(function: Function) -> Function:
    """Add the options that choose files."""
    for option in reversed(_CHOICE):
        function = option(function)
    return directory_option(_names_argument(function))


@click.group(
    "queue",
    cls=ProgramGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """List waiting files, hold them back, release, retry or drop them.

    A running relayd is asked through its control socket; while none runs, the spool itself is used.
    """


@command.command("list", short_help="Show files, the oldest first, and the nodes on hold.")
@_choosing
@_state_option
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"List at most this many files; 0: all.  [default: {LISTED}; with --json all]",
)
@_json_option
def list_(directory: Path, *, limit: int | None, machine: bool, **chosen: Any) -> int:
    """Show files that wait or are on hold, the oldest first, and the nodes on hold."""
    most = limit if limit is not None else 0 if machine else LISTED
    waiting = _files(_Site(directory), _choice(**chosen), most, details=False)
    if machine:
        click.echo("".join(f"{json_line(one)}\n" for one in waiting.files), nl=False)
        return 0
    _print(show.waiting_lines(waiting, output_width()))
    return 0


@command.command("show", short_help="Show each file: node, run, arrival, size, attempts.")
@_choosing
@_state_option
@_json_option
def show_(directory: Path, *, machine: bool, **chosen: Any) -> int:
    """Show each file: node, run, arrival, size, attempts; the exit code is 1 if there is none."""
    waiting = _files(_Site(directory), _choice(**chosen), 0, details=True)
    if machine:
        _print(json_line(one) for one in waiting.files)
    else:
        _print(show.detail_lines(waiting))
    return 0 if waiting.files else 1


@command.command("shape")
@_choosing
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=ROWS,
    show_default=True,
    help="Show at most this many nodes, and relays.",
)
@_json_option
def shape_(directory: Path, *, rows: int, machine: bool, **chosen: Any) -> int:
    """Count waiting files by node and age."""
    choice = _choice(**chosen)
    site = _Site(directory)
    shape = site.ask(
        Shape,
        lambda control: control.post("/queue/shape", {"choice": _json(choice), "rows": rows}),
        lambda queue: queue.shape(choice, rows),
        changes=False,
    )
    _print([json_line(shape)] if machine else show.shape_lines(shape))
    return 0


@command.command("hold", short_help="Set waiting files aside, or all of a node.")
@_choosing
@_all_option
@_trial_option
@_json_option
def hold_(directory: Path, **options: Any) -> int:
    """Set waiting files aside; of a node, those that arrive later as well.

    They stay until "relayd queue release", and are never removed meanwhile.
    """
    return _act(directory, "hold", **options)


@command.command("release", short_help="Bring files back that are on hold.")
@_choosing
@_all_option
@_trial_option
@_json_option
def release_(directory: Path, **options: Any) -> int:
    """Bring files back that are on hold, in the order of their runs."""
    return _act(directory, "release", **options)


@command.command("retry")
@_choosing
@_all_option
@_json_option
def retry_(directory: Path, **options: Any) -> int:
    """Try files now that wait for another attempt."""
    return _act(directory, "retry", trial=False, **options)


@command.command("drop", short_help="Remove files for good.")
@_choosing
@_state_option
@_all_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@_trial_option
@_json_option
def drop_(directory: Path, *, yes: bool, trial: bool, **options: Any) -> int:
    """Remove files for good, those that wait and those that are on hold."""
    if not yes and not trial:
        options |= _confirm(directory, options)
    return _act(directory, "drop", trial=trial, **options)


def _confirm(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Ask about the files that are meant; return options that mean no other ones."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at; use --yes.")
    chosen = {name: value for name, value in options.items() if name not in _NO_CHOICE}
    choice = _choice(**chosen)
    _require_choice(choice, everything=options["everything"])
    trial = _report(_Site(directory), "drop", choice, trial=True)
    number = trial.files + trial.counts.get("busy", 0)
    if not number:
        return {}  # what stays is said without a question
    names = [file.name for file in _files(_Site(directory), choice, _ASKED, details=False).files]
    click.confirm(f"Remove {show.files_of(trial)} for good?", abort=True, err=True)
    # Others of so many may arrive meanwhile; of fewer, an answer is about these.
    return {} if number > _ASKED else {"names": tuple(names), "everything": False}


#: Files that are named one by one to relayd when they are dropped after a question.
_ASKED: Final = 10_000
_NO_CHOICE: Final = frozenset({"everything", "machine", "trial"})


def _act(
    directory: Path,
    action: Action,
    *,
    everything: bool,
    trial: bool,
    machine: bool,
    **chosen: Any,
) -> int:
    choice = _choice(**chosen)
    _require_choice(choice, everything=everything)
    site = _Site(directory)
    report = _report(site, action, choice, trial=trial)
    if machine:
        _print([json_line(report)])
    else:
        _print(show.report_lines(report, choice, running=site.is_running, width=output_width()))
    missed = choice.names and action != "retry" and not report.counts
    return 0 if report.is_complete and not missed else 1


def _report(site: "_Site", action: Action, choice: Choice, *, trial: bool) -> Report:
    body = {"choice": _json(choice), "everything": choice.is_all, "trial": trial}

    def work(queue: Queue) -> Report:
        if action == "hold":
            return queue.hold(choice, myself().name(), trial=trial)
        if action == "release":
            return queue.release(choice, trial=trial)
        return queue.drop(choice, trial=trial) if action == "drop" else queue.retry(choice)

    return site.ask(Report, lambda control: control.post(f"/queue/{action}", body), work)


def _files(site: "_Site", choice: Choice, limit: int, *, details: bool) -> Waiting:
    body = {"choice": _json(choice), "limit": limit, "details": details}
    return site.ask(
        Waiting,
        lambda control: control.post("/queue/list", body),
        lambda queue: queue.files(choice, limit, details=details),
        changes=False,
    )


def _choice(names: tuple[str, ...], **chosen: Any) -> Choice:
    return Choice(names=file_names(names), **chosen)


def _json(choice: Choice) -> object:
    return msgspec.to_builtins(choice)


def _require_choice(choice: Choice, *, everything: bool) -> None:
    """Refuse to change all files because an option was forgotten."""
    if choice.is_all != everything:
        problem = (
            "--all contradicts the choice of some." if everything else "choose files, or use --all."
        )
        raise click.UsageError(problem)


class _Site:
    """An installation.

    Attributes:
        is_running: whether relayd was asked.
    """

    def __init__(self, directory: Path) -> None:
        self._installation = find_installation(directory)
        self.is_running = True

    def ask(
        self,
        kind: type[T],
        online: Callable[[Control], Any],
        work: Callable[[Queue], T],
        *,
        changes: bool = True,
    ) -> T:
        """Ask relayd, or work on the spool; one that is to be changed is locked."""

        def offline(settings: Settings) -> T:
            self.is_running = False
            with ExitStack() as stack:
                if changes:
                    lock_all(stack, spools_of(settings))
                return work(_queue(settings))

        return ask(self._installation, kind, online, offline)


def _queue(settings: Settings) -> Queue:
    nodes, trouble = Nodes(""), None
    try:
        listed = load_list(settings.general.nodes_list_file)
        nodes = Nodes(settings.node_id(), listed)
    except NodesError as error:
        trouble = error
    queue = Queue(spools_of(settings), nodes.hostnames(), nodes.relay_of, find_nodes)
    if trouble is not None:
        click.echo(f"warning: host names are unknown: {trouble}", err=True)
    return queue


def _print(lines: Any) -> None:
    for line in lines:
        click.echo(line)
