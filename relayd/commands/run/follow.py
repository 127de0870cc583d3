"""Asks the running relayd for a run, and shows it until its end or an interrupt."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Final

import click

from relayd.commands.failing import complain
from relayd.commands.installation import find_installation
from relayd.commands.interrupts import interruptible
from relayd.commands.run.backlog import Backlog
from relayd.commands.run.results import Results
from relayd.commands.run.show import Lines, event_as_json, summary_as_json, table
from relayd.control.client import Control, ControlError, NotPermittedError, NotRunningError
from relayd.errors import RelaydError, StartError

_GOES_ON: Final = "The run goes on without being followed; its end will be in relayd's log."


def run_agents(
    directory: Path,
    nodes: tuple[str, ...],
    conditions: tuple[str, ...],
    *,
    everything: bool,
    yes: bool,
    machine: bool,
) -> int:
    """Start agents and follow them; return the exit code.

    Args:
        directory: the configuration directory.
        nodes: ids, host names, or unique parts of either.
        conditions: names to be defined in the agents.
        everything: all nodes, instead of some.
        yes: do not ask before starting the agents of all nodes.
        machine: print lines of JSON.

    Raises:
        StartError: relayd does not run, or does not accept the run.
    """
    path = find_installation(directory).socket
    with _asking():
        if everything and not yes:
            _confirm(Control(path).get("/run")["nodes"])
        body = {"nodes": nodes, "all": everything, "conditions": conditions}
        with interruptible():
            try:
                return _follow(Control(path, inf), body, machine=machine)
            except KeyboardInterrupt:
                click.echo(f"\n{_GOES_ON}", err=True)
                raise click.Abort from None


@contextmanager
def _asking() -> Iterator[None]:
    """Turn what the control socket raises into an error with exit code 3."""
    try:
        yield
    except NotRunningError as error:
        raise StartError(f"{error}; start relayd first: only the daemon starts agents") from error
    except (NotPermittedError, ControlError) as error:
        raise StartError(str(error)) from error


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at; use --yes.")
    what = "the agent of 1 node" if count == 1 else f"the agents of all {count:,} nodes"
    click.confirm(f"Start {what}?", abort=True, err=True)


def _follow(control: Control, body: Mapping[str, object], *, machine: bool) -> int:
    began = time.monotonic()
    results = Results()
    backlog = Backlog()
    events = control.lines("/run", body)
    # A daemon thread: it reads until relayd ends the answer, which nobody waits for any more.
    threading.Thread(target=backlog.fill, args=(events,), daemon=True).start()
    broken = _show(backlog, results, machine=machine)
    if machine:
        seconds = time.monotonic() - began
        click.echo(summary_as_json(results, seconds, complete=broken is None))
    else:
        for line in table(results):
            click.echo(line)
    if broken is not None:
        complain(f"{broken}; see relayd's log")
    return 0 if broken is None and results.verdicts["ok"] == len(results.nodes) else 1


def _show(backlog: Backlog, results: Results, *, machine: bool) -> RelaydError | None:
    """Print the events; return the error that has ended a run which had begun."""
    lines = Lines(results)
    try:
        for event in backlog:
            results.take(event)
            line = event_as_json(event) if machine else lines.of(event)
            if line is not None:
                click.echo(line)
    except ControlError as error:
        if error.status or not results.me:
            raise
        return error
    return None
