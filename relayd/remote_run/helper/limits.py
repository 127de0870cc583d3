"""How long a command may run: as long as it makes progress.

The daemon and the root helper use the same rule. Rudder's command runs its nodes one after the
other, so the time of a command grows with their number.
"""

from typing import Final, NamedTuple

_DAY_S: Final = 86_400.0
#: Bytes of output that count as progress: an endless flood is none.
PROGRESS_BYTES: Final = 64 * 1024 * 1024


class Limits(NamedTuple):
    """The limits of one command.

    Attributes:
        silence: seconds without output after which it is terminated.
        total: seconds after which it is terminated in any case.
    """

    silence: float
    total: float


def limits_for(seconds: float, nodes: int) -> Limits:
    """Return the limits of a command for some nodes, each of which may take `seconds`."""
    whole = seconds * nodes
    return Limits(min(whole, max(seconds, _DAY_S)), max(whole, _DAY_S))
