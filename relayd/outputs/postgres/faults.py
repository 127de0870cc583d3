"""Errors of asyncpg, translated into `DatabaseError`."""

from typing import Final

import asyncpg

from relayd.errors import DatabaseError
from relayd.outputs.postgres.sqlstate import kind_of

#: What asyncpg raises when the server, the network or the data are at fault.
FAULTS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


def explain(error: BaseException) -> DatabaseError:
    """Translate an error. asyncpg hides the first cause in the context when a COPY breaks."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, asyncpg.PostgresError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, asyncpg.PostgresError):
        state = getattr(cause, "sqlstate", None) or ""
        # Only the primary message: the server's DETAIL shows the data.
        text = " ".join(str(getattr(cause, "message", None) or cause).split())[:200]
        if not state:
            return DatabaseError(text or type(cause).__name__, "transient")
        constraint = getattr(cause, "constraint_name", None)
        context = getattr(cause, "context", None) or ""
        kind = kind_of(state, constraint=constraint, context=context)
        return DatabaseError(text, kind, state)
    if isinstance(error, TimeoutError):
        return DatabaseError("the database did not answer in time", "transient")
    return DatabaseError(" ".join(str(error).split())[:200] or type(error).__name__, "transient")
