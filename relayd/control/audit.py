"""One log line for each operation that changed something: who, what, how many."""

from typing import Final

from quart import request

from relayd.control.callers import Caller
from relayd.control.server import CALLER
from relayd.system.threads import in_thread
from relayd.telemetry.logs import Limit, get_logger

#: Who changed what is of use only if no line is left out.
log: Final = get_logger("control", Limit.NONE)


def current_caller() -> Caller:
    """Return who sent the current request."""
    caller: Caller = request.scope["state"][CALLER]
    return caller


async def caller_name() -> str:
    """Return the user name of who sent the current request."""
    return await in_thread(current_caller().name, abandon_on_cancel=True)


async def audit(action: str, count: int, **what: object) -> None:
    """Log an operation that changed something, once, at its end.

    Args:
        action: as in the path of the request: `queue hold`, `pause`.
        count: of files or nodes concerned.
        what: the choice that was made, and other facts.
    """
    caller = current_caller()
    log.info(
        "operation",
        action=action,
        count=count,
        user=await caller_name(),
        uid=caller.uid,
        pid=caller.pid,
        **what,
    )
