"""How many files operators have set aside."""

import os
from collections.abc import Iterable

from relayd.errors import StartError
from relayd.spool.layout import Spool
from relayd.spool.operations.entries import layers


def count_held(spools: Iterable[Spool]) -> int:
    """Return the number of files that `relayd queue hold` has set aside; blocks.

    What cannot be read counts as nothing.
    """
    return sum(_count(spool) for spool in spools)


def _count(spool: Spool) -> int:
    total = 0
    try:
        for layer, _place in layers(spool):
            with os.scandir(spool.on_hold / layer) as entries:
                total += sum(1 for _ in entries)
    except (OSError, StartError):
        return total
    return total
