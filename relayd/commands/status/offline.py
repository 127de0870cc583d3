"""The overview of a relayd that cannot be asked: what its configuration and spools show."""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Final

from relayd import __version__
from relayd.commands.check.surroundings.units import find_service
from relayd.config.main_conf import Settings
from relayd.errors import NodesError, RelaydError, StartError
from relayd.fleet.loading import load_list
from relayd.fleet.nodes import Nodes
from relayd.overview.failed import FailedIndex
from relayd.overview.held import look_at_held
from relayd.overview.model import Backlog, NodesState, Overview, Pause
from relayd.overview.nodes import reporting_nodes
from relayd.overview.server import role_of, running_process, spools_in_use
from relayd.pipelines.pausing import PauseError, PauseFile, as_pause
from relayd.runlog.filename import run_of
from relayd.spool.layout import Spool
from relayd.spool.watching.listing import is_ours
from relayd.system.amounts import age, counted
from relayd.system.shortage import words_of

#: Run logs whose arrival is looked at, of those with the oldest runs.
OLDEST_RUNS: Final = 100


def offline_overview(settings: Settings, why: str) -> Overview:
    """Return the overview without a relayd that answers; blocks while it looks at the spools.

    Args:
        settings: of this machine.
        why: relayd cannot be asked.

    Raises:
        StartError: this user may not look at the spools.
    """
    spools = spools_in_use(settings)
    try:
        files, oldest, place = _waiting(spools.values())
    except OSError as error:
        problem = f"{why}; {error.filename} cannot be read"
        raise StartError(problem, reason=words_of(error)) from error
    now, node_id = time.time(), _node_id(settings)
    oldest_s = max(0.0, now - oldest) if oldest is not None else None
    process, held = running_process(settings), look_at_held(spools.values())
    nodes, hostname = _nodes(settings, node_id)
    sentence = (
        "relayd does not run here."
        if process is None
        else f"relayd runs as process {process}, but cannot be asked: {why}."
    )
    if files and oldest_s is not None:
        verb = "waits" if files == 1 else "wait"
        sentence += f" {counted(files, 'file')} {verb} in {place}, the oldest for {age(oldest_s)}."
    return Overview(
        at=now,
        state="not_running" if process is None else "unknown",
        pid=process,
        sentence=sentence,
        advice="relayd check" if process is not None else _start(spools.values()),
        version=__version__,
        role=role_of(settings, node_id),
        node_id=node_id,
        hostname=hostname,
        kinds=tuple(spools),
        backlog=Backlog(files=files, oldest_s=oldest_s),
        nodes=nodes,
        failed=FailedIndex(spools.values()).look(),
        held=held.files,
        nodes_on_hold=held.nodes,
        pause=_pause(settings, now),
    )


def _waiting(spools: Iterable[Spool]) -> tuple[int, float | None, str]:
    """Return the number of waiting files, the arrival of the oldest, and where that one is.

    Raises:
        OSError: a directory cannot be read.
    """
    files, oldest, place = 0, None, ""
    for spool in spools:
        for directory in spool.watched:
            number, at = _oldest(spool, directory)
            files += number
            if at is not None and (oldest is None or at < oldest):
                oldest, place = at, str(directory)
    return files, oldest, place


def _oldest(spool: Spool, directory: Path) -> tuple[int, float | None]:
    """Return the number of waiting files of a directory, and when the oldest arrived.

    A system call for each of some hundred thousand run logs would take seconds, so only those of
    the oldest runs, and those without a date in their name, are looked at.
    """
    dated: list[tuple[float, str]] = []
    others: list[str] = []
    number, latest = 0, math.inf
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if not is_ours(entry.name, spool.extensions, hidden=spool.hidden):
                continue
            number += 1
            run = run_of(entry.name) if spool.ordered else None
            if run is None:
                others.append(entry.name)
                continue
            if run[1] >= latest:
                continue
            dated.append((run[1], entry.name))
            if len(dated) > 2 * OLDEST_RUNS:
                dated = nsmallest(OLDEST_RUNS, dated)
                latest = dated[-1][0]
    names = chain(others, (name for _, name in nsmallest(OLDEST_RUNS, dated)))
    return number, min(_arrivals(directory, names), default=None)


def _arrivals(directory: Path, names: Iterable[str]) -> Iterator[float]:
    for name in names:
        with suppress(OSError):  # taken away meanwhile
            yield os.lstat(directory / name).st_mtime


def _node_id(settings: Settings) -> str:
    try:
        return settings.node_id()
    except RelaydError:
        return "?"


def _start(spools: Iterable[Spool]) -> str:
    """Return the command that starts relayd, or finds out why nothing does."""
    unit = find_service(spools).unit
    return "relayd check" if unit is None else f"systemctl start {unit}"


def _nodes(settings: Settings, node_id: str) -> tuple[NodesState, str]:
    """Return the state of the nodes, and the host name of this one, "" if it is not known."""
    try:
        nodes = load_list(settings.general.nodes_list_file)
    except NodesError as error:
        return NodesState(trouble=str(error)), ""
    own = nodes.get(node_id)
    known = len(reporting_nodes(Nodes(node_id, nodes)))
    return NodesState(known=known), own.hostname if own is not None else ""


def _pause(settings: Settings, now: float) -> Pause | None:
    """Return what is paused once relayd runs again."""
    try:
        return as_pause(PauseFile(settings.general.state_directory).read(now))
    except PauseError:
        return None
