"""What a SQLSTATE means for a run log: retry, wait for an operator, or refuse it.

Source: the PostgreSQL manual, appendix A (error codes). The class is the first two characters;
a code that differs from its class is listed by itself.
"""

from typing import Final, Literal

Kind = Literal["transient", "operator", "permanent"]

#: Retry soon: the server is down, busy or full, or a race was lost.
TRANSIENT: Final = frozenset({"08", "40", "53", "55", "57", "58", "25", "XX", "02", "03"})

#: Only these data are wrong: the run log is refused, its neighbours are not.
PERMANENT: Final = frozenset({"21", "22", "23", "44", "54", "P0"})

#: Codes that differ from their class. Any other code, unknown ones included, needs an operator
#: (rights, passwords, a missing table, a wrong setting): files wait, and relayd retries at most
#: once a minute.
EXCEPTIONS: Final[dict[str, Kind]] = {
    # A standby or a read-only server: the failover will end, but an operator should know.
    "25006": "operator",
    # Corrupted data or index on the server: retrying soon only does harm.
    "XX001": "operator",
    "XX002": "operator",
    # Unlike a statement timeout (57014), a dropped database does not come back by itself.
    "57P04": "operator",
}


def kind_of(sqlstate: str) -> Kind:
    """Return what to do about an error of the server.

    Args:
        sqlstate: five characters as the server sent them.

    Returns:
        The kind of `relayd.errors.DatabaseError`; "operator" for an unknown code, so that no file
        is refused because of a surprise.
    """
    if sqlstate in EXCEPTIONS:
        return EXCEPTIONS[sqlstate]
    if sqlstate[:2] in TRANSIENT:
        return "transient"
    if sqlstate[:2] in PERMANENT:
        return "permanent"
    return "operator"
