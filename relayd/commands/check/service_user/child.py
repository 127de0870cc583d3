"""Run programs in a clean environment, as the service user if needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from relayd.commands.check.account import Account
from relayd.remote_run.helper.protocol import SEARCH_PATH

if TYPE_CHECKING:
    from subprocess import CompletedProcess

_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}


async def run(
    command: Sequence[str], stdin: bytes = b"", account: Account | None = None
) -> "CompletedProcess[bytes]":
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        stdin: its input.
        account: the user to run it as; requires `can_become`.

    Raises:
        OSError: it cannot be started.
    """
    # `None` keeps the user of this process, which may not be allowed to change it.
    other = None if account is None or account.is_current else account
    return await trio.run_process(
        command,
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd="/",
        env=_ENVIRONMENT,
        user=other.uid if other else None,
        group=other.gid if other else None,
        extra_groups=other.groups if other else None,
    )
