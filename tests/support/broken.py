"""relayd with a bug in one of its tasks.

`python -m tests.support.broken TASK GO -c DIR` runs the daemon on a configuration directory. As
soon as the file GO exists, the task raises, whatever it is doing.
"""

import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import trio

#: Each task of the daemon → the function that is all of it, or that it calls for each batch.
TASKS: Final = {
    "signals": "relayd.service.tree:Service._run_signals",
    "reloads": "relayd.service.tree:Service._run_reloads",
    "http": "relayd.service.tree:run_server",
    "canary": "relayd.service.tree:Service._run_canary",
    "trust": "relayd.fleet.current_nodes:CurrentNodes.run",
    "reporting": "relayd.pipelines.reporting:ReportingPipeline.run",
    "cleanup": "relayd.pipelines.reporting:run_spool_cleanup",
    "requeue": "relayd.pipelines.reporting:ReportingPipeline._run_requeue",
    "stopper": "relayd.pipelines.reporting:ReportingPipeline._run_stopper",
    "worker": "relayd.pipelines.workers.pool:WorkerPool.run_worker",
    "worker reader": "relayd.pipelines.workers.process:Worker.run_reader",
    "read events": "relayd.spool.watching.watcher:_Watcher.read_events",
    "guard watch": "relayd.spool.watching.watcher:_Watcher.guard_watch",
    "list": "relayd.spool.watching.watcher:_Watcher.take_listings",
    "serve rescans": "relayd.spool.watching.watcher:_Watcher.serve_rescans",
    "feed": "relayd.spool.watching.watcher:_Watcher.feed",
    "examine": "relayd.pipelines.workers.pool:WorkerPool.examine",
    "write": "relayd.pipelines.write:Writer.write",
    "transaction": "relayd.outputs.postgres.session:Session.transaction",
    "dispose": "relayd.pipelines.dispose:DisposeStage.dispose",
    "remove": "relayd.spool.disposal:Disposal.remove",
    "quarantine": "relayd.spool.disposal:Disposal.quarantine",
}
#: Those that are called for each batch: they raise in the first call after GO.
BATCHES: Final = {"examine", "write", "transaction", "dispose", "remove", "quarantine"}


class BugError(Exception):
    """A bug that no code expects."""


def break_task(task: str, go: Path) -> None:
    """Put the bug in."""
    module, _, path = TASKS[task].partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    make = in_next_call if task in BATCHES else in_the_middle
    setattr(owner, name, make(getattr(owner, name), task, go))


def in_next_call(
    work: Callable[..., Awaitable[Any]], task: str, go: Path
) -> Callable[..., Awaitable[Any]]:
    """Raise instead of working once `go` exists."""

    @wraps(work)
    async def broken(*args: Any, **more: Any) -> Any:
        if go.exists():
            raise BugError(f"in {task}")
        return await work(*args, **more)

    return broken


def in_the_middle(
    work: Callable[..., Awaitable[Any]], task: str, go: Path
) -> Callable[..., Awaitable[Any]]:
    """Works, and raises once `go` exists."""

    @wraps(work)
    async def broken(*args: Any, **more: Any) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raise_after, task, go)
            result = await work(*args, **more)
            nursery.cancel_scope.cancel()
        return result

    return broken


async def _raise_after(task: str, go: Path) -> None:
    while not go.exists():
        await trio.sleep(0.01)
    raise BugError(f"in {task}")


if __name__ == "__main__":
    from relayd.commands.cli import rudder_relayd

    break_task(sys.argv[1], Path(sys.argv[2]))
    rudder_relayd(sys.argv[3:])
