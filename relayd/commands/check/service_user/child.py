"""Programs that are asked something: in a clean environment, as the service user if need be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from relayd.commands.check.service_user.account import Account

if TYPE_CHECKING:
    from subprocess import CompletedProcess

#: Where programs are looked for.
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}


async def run(
    command: Sequence[str], stdin: bytes = b"", account: Account | None = None
) -> "CompletedProcess[bytes]":
    """Run a program until it ends.

    Args:
        command: the program and its arguments.
        stdin: its input.
        account: the user to run it as, one for which `can_become` is true.

    Raises:
        OSError: it cannot be started.
    """
    # `None` keeps what this process has, which may have no right to change it.
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
