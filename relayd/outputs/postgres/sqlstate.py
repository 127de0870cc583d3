"""What an error of the server says: of a run log, of the tables or of the server.

Source: the PostgreSQL manual, appendix A (error codes). The class is the first two characters;
a code that differs from its class is listed by itself. The same map in words: docs/database.md.
"""

import re
from typing import Final, Literal

Kind = Literal["transient", "operator", "permanent", "table"]

#: Retry soon: the server is down, busy or full, or a race was lost.
TRANSIENT: Final = frozenset({"08", "40", "53", "55", "57", "58", "25", "XX", "02", "03"})

#: The data may be wrong: the run log is refused, unless the tables refuse a good one too.
PERMANENT: Final = frozenset({"21", "44", "54"})

#: Rudder's own tables would take the same row: others have changed them, or a sequence is wrong.
#: Also what a trigger, a view or a foreign table behind them refuses or cannot do.
TABLE: Final = frozenset({"22", "23", "42", "0A", "09", "27", "2F", "38", "39", "HV", "P0"})

#: A check constraint is violated or, where no constraint is named, no partition takes the row.
NO_PARTITION: Final = "23514"
#: A standby, or a server that was made read-only.
READ_ONLY: Final = "25006"

#: The only rules that Rudder's own tables have: some columns are never empty.
_OWN_RULE: Final = re.compile(
    r"ruddersysevents_(?:nodeid|directiveid|ruleid|reportid|component)_check[0-9]*"
)

#: Codes that differ from their class. Any other code, unknown ones included, needs an operator
#: (rights, passwords, a missing table, a wrong setting): files wait, and relayd retries at most
#: once a minute.
EXCEPTIONS: Final[dict[str, Kind]] = {
    # Dates and bytes that no PostgreSQL takes.
    "22007": "permanent",
    "22008": "permanent",
    "22009": "permanent",
    "22021": "permanent",
    # relayd's own COPY text is wrong, for one run log.
    "22P04": "permanent",
    # A rule of Rudder's own tables; another one, or no partition, is a matter of the tables.
    NO_PARTITION: "permanent",
    # A prepared statement of another session: a pooler is in between.
    "42P05": "operator",
    # A standby or a read-only server: the failover will end, but an operator should know.
    READ_ONLY: "operator",
    # Corrupted data or index on the server: retrying soon only does harm.
    "XX001": "operator",
    "XX002": "operator",
    # Unlike a statement timeout (57014), a dropped database does not come back by itself.
    "57P04": "operator",
}


def kind_of(sqlstate: str, *, constraint: str | None = "", context: str = "") -> Kind:
    """Return what to do about an error of the server.

    Args:
        sqlstate: five characters as the server sent them.
        constraint: name of the constraint that was violated, None if the server named none.
        context: where the error arose, as the server sent it.

    Returns:
        The kind of `relayd.errors.DatabaseError`; "operator" for an unknown code, so that no file
        is refused because of a surprise.
    """
    kind = _kind_of(sqlstate)
    if kind == "permanent" and sqlstate[:2] in ("22", "23"):
        if sqlstate == NO_PARTITION and not _OWN_RULE.fullmatch(constraint or ""):
            return "table"
        if context.startswith(("PL/", "SQL")):  # in a trigger of others
            return "table"
    return kind


def _kind_of(sqlstate: str) -> Kind:
    if sqlstate in EXCEPTIONS:
        return EXCEPTIONS[sqlstate]
    if sqlstate[:2] in TRANSIENT:
        return "transient"
    if sqlstate[:2] in PERMANENT:
        return "permanent"
    if sqlstate[:2] in TABLE:
        return "table"
    return "operator"
