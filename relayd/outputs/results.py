"""What became of a file at its output; apart, so that not every user loads that output."""

import msgspec

from relayd.errors import Refused


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The output has it: the file can leave the spool.

    Attributes:
        again: it was counted before; only its file was left to remove.
    """

    again: bool = False


class Stored(Done, frozen=True):
    """A run log that is in the database.

    Attributes:
        rows: rows that this call inserted, 0 for a duplicate or an empty one.
        duplicate: it was there already.
        missing: rows of this duplicate that are not stored (a longer version of the same run).
    """

    rows: int
    duplicate: bool = False
    missing: int = 0


class Forwarded(Done, frozen=True):
    """A file that the upstream has."""


Outcome = Stored | Refused
