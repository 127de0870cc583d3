"""Which files of a spool count: everything else is left where it is until cleanup."""

from typing import Final

RUN_LOGS: Final = frozenset({"gz", "zip", "log"})
INVENTORIES: Final = frozenset({"gz", "xml", "ocs", "sign"})
