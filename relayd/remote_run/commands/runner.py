"""The interface between a run and the command or helper that starts agents on neighbours.

A `Runner` receives nodes by id and host name, so that a privileged one can look up the ids itself
instead of trusting the names.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from relayd.errors import RelaydError

#: Takes output of a command, in pieces of any size; while it waits, the command has to wait, too.
#: An empty piece is a sign of life: the command wrote to its standard error.
Output = Callable[[bytes], Awaitable[None]]


class RunnerError(RelaydError):
    """Agents could not be started; the text is for the client, without paths of this machine."""


@dataclass(frozen=True, slots=True)
class Target:
    """A neighbour.

    Attributes:
        node: its node id.
        host: the name to reach it by: not empty, no comma, space or control character.
    """

    node: str
    host: str


@dataclass(frozen=True, slots=True)
class Order:
    """The work of one command.

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
        detail: the end of its standard error, one line, at most 200 characters.
    """

    code: int
    detail: str = ""


class Runner(Protocol):
    """Runs a command for each order."""

    async def run(
        self,
        order: Order,
        output: Output,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> Exit:
        """Start agents and wait for the end of the command.

        Cancellation ends the command and all of its children, in bounded time.

        Args:
            order: the agents to start.
            output: called with what the command prints, as it is printed.
            task_status: started once the command is certain to run.

        Raises:
            RunnerError: the command could not be started.
        """
        ...
