"""What starts agents on neighbours: the seam between a run and the command or helper that does it.

A `Runner` is given nodes by id and host name, so that one which has privileges of its own can look
the ids up again instead of believing the names.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from relayd.errors import RelaydError


class RunnerError(RelaydError):
    """Agents could not be started; the text is for the client, without paths of this machine."""


@dataclass(frozen=True, slots=True)
class Target:
    """A neighbour.

    Attributes:
        node: its node id.
        host: the name it is reached by: not empty, no comma, space or control character.
    """

    node: str
    host: str


@dataclass(frozen=True, slots=True)
class Order:
    """What one command is to do.

    Attributes:
        targets: neighbours, at least one; their host names joined by commas fit into one argument.
        conditions: condition (class) names to be defined in the agents.
    """

    targets: tuple[Target, ...]
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        detail: the last it said on standard error, one line, at most 200 characters.
    """

    code: int
    detail: str = ""


class Runner(Protocol):
    """Runs one command for an order."""

    async def run(
        self,
        order: Order,
        output: Callable[[bytes], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Exit:
        """Start agents and waits for the end; `started` is called once it is certain to run.

        Cancelling it ends the command and all of its children, in bounded time.

        Args:
            order: the agents to start.
            output: takes what the command prints, in pieces of any size, as it is printed. While
                it waits, the command has to wait, too.
            task_status: of the task.

        Raises:
            RunnerError: it could not be started.
        """
        ...
