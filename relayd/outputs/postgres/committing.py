"""Commits that mean it: with synchronous replication, the standbys have what was confirmed.

A server that waits for its standbys has already committed locally. A request to cancel ends that
wait, and the COMMIT then succeeds, with a warning. So relayd never sends one while it commits, and
takes the warning, which somebody else's request leads to, for a failure.
"""

import asyncio
from typing import Any, Final

from relayd.errors import DatabaseError
from relayd.outputs.postgres import statements as sql
from relayd.outputs.postgres.connection import Connection

#: What the server says when it ends a wait for its standbys: a warning without a code of its own,
#: and the one of a session that is ended (syncrep.c).
_INTERRUPTED: Final = frozenset({"01000", "57P01"})


async def commit(connection: Connection, *, synchronous: bool) -> None:
    """Commit the open transaction. If this is cancelled, the connection is closed.

    Args:
        connection: in a transaction.
        synchronous: whether the server waits for standbys.

    Raises:
        DatabaseError: transient; the standbys may not have it. Writing the same again finds
            duplicates, and waits for the standbys too.
    """
    warnings: list[str] = []

    def note(_connection: Connection, message: Any) -> None:
        if message.sqlstate in _INTERRUPTED:
            warnings.append(message.sqlstate)

    connection.add_log_listener(note)
    # In a task of its own: asyncpg cancels a statement whose caller is cancelled.
    committing = asyncio.ensure_future(connection.execute(sql.COMMIT))
    try:
        await asyncio.shield(committing)
    except asyncio.CancelledError:
        committing.add_done_callback(_consume)
        connection.terminate()
        raise
    finally:
        connection.remove_log_listener(note)
    if warnings and synchronous:
        detail = "the wait for a synchronous standby was interrupted, so the commit is in doubt"
        raise DatabaseError(detail, "transient", warnings[0])


def _consume(committing: "asyncio.Future[Any]") -> None:
    if not committing.cancelled():
        committing.exception()
