"""What became of a run log in the database; apart, so that not every user loads asyncpg."""

import msgspec

from relayd.errors import Refused


class Stored(msgspec.Struct, frozen=True):
    """A run log that is in the database.

    Attributes:
        rows: rows that this call inserted, 0 for a duplicate or an empty one.
        duplicate: it was there already.
        missing: rows of this duplicate that are not stored (a longer version of the same run).
        again: it was counted before; only its file was left to remove.
    """

    rows: int
    duplicate: bool = False
    missing: int = 0
    again: bool = False


Outcome = Stored | Refused
