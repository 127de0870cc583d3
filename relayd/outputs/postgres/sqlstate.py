"""What a SQLSTATE means for a run log: try again, call someone, or refuse it.

Source: the PostgreSQL manual, appendix A (error codes). The class is the first two characters;
a code that needs another answer than its class is listed by itself.
"""

from typing import Final, Literal

Kind = Literal["transient", "operator", "permanent"]

#: Try again soon: the server is away, busy, full, or lost a race.
TRANSIENT: Final = frozenset({"08", "40", "53", "55", "57", "58", "25", "XX", "02", "03"})

#: Only these data are wrong: the run log is refused, its neighbours are not.
PERMANENT: Final = frozenset({"21", "22", "23", "44", "54", "P0"})

#: Someone must act (rights, passwords, a missing table, a wrong setting): files wait, and relayd
#: asks again at most once a minute. Classes that no list names land here too: keep the files.
OPERATOR: Final = frozenset(
    {"0A", "26", "28", "2B", "34", "38", "39", "3B", "3D", "3F", "42", "F0", "HV", "72", "01"}
    | {"09", "0B", "0F", "0L", "0P", "0Z", "10", "20", "24", "27", "2D", "2F", "00"}
)

#: Codes that differ from their class.
EXCEPTIONS: Final[dict[str, Kind]] = {
    # A standby or a read-only server: the failover will end, but someone should know.
    "25006": "operator",
    # Corrupted data or index on the server: retrying soon only hurts.
    "XX001": "operator",
    "XX002": "operator",
    # A statement timeout is 57014; a database that was dropped will not come back by itself.
    "57P04": "operator",
}


def kind_of(sqlstate: str) -> Kind:
    """Return what to do about an error of the server.

    Args:
        sqlstate: five characters as the server sent them.

    Returns:
        The kind of `relayd.errors.DatabaseError`; "operator" for a code that nobody knows, so
        that no file is lost to a surprise.
    """
    if sqlstate in EXCEPTIONS:
        return EXCEPTIONS[sqlstate]
    if sqlstate[:2] in TRANSIENT:
        return "transient"
    if sqlstate[:2] in PERMANENT:
        return "permanent"
    return "operator"
