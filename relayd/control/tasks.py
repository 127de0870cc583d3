"""`GET /tasks`: what a running relayd does, as the tree of its tasks."""

from collections.abc import Iterator
from typing import Final

import msgspec
import trio
from quart import Blueprint

from relayd.control.requests import answering

#: Tasks in one answer: each connection and each command has one.
_MOST: Final = 2000


class TaskLine(msgspec.Struct, frozen=True):
    """One task.

    Attributes:
        depth: number of tasks above it.
        name: as it was started.
        waits_in: where it waits: function, file and line; "" if it has not begun.
    """

    depth: int
    name: str
    waits_in: str


def tasks_blueprint() -> Blueprint:
    """Return the route of the tree of tasks."""
    routes = Blueprint("tasks", __name__)

    @routes.get("/tasks", endpoint="getTasks")
    @answering("getTasks")
    async def tasks() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        lines: list[TaskLine] = []
        total = 0
        for line in _tasks():
            total += 1
            if total <= _MOST:
                lines.append(line)
        return {"total": total, "tasks": lines}

    return routes


def _tasks() -> Iterator[TaskLine]:
    """Yield all tasks, each before those that it supervises."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [(0, root)]
    while waiting:
        depth, task = waiting.pop()
        yield TaskLine(depth, task.name, _place(task))
        below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        below.sort(key=lambda child: child.name, reverse=True)
        waiting += [(depth + 1, child) for child in below]


def _place(task: trio.lowlevel.Task) -> str:
    """Return the innermost line of relayd's own code, or of any other if there is none."""
    places = [
        (frame.f_code.co_qualname, frame.f_globals.get("__name__", "?"), line)
        for frame, line in task.iter_await_frames()
    ]
    own = [place for place in places if str(place[1]).startswith("relayd.")] or places
    return "{} in {}:{}".format(*own[-1]) if own else ""
