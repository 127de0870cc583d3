"""An inventory and its signature: two files that are of no use to a server without each other."""

import time
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relayd.pipelines.ticket import Ticket
from relayd.spool.pending import Pending
from relayd.spool.watching.watcher import Arrival
from relayd.system.threads import in_thread

#: A file waits so long, since it was last written to, for the other one of its pair; an agent
#: uploads them one right after the other.
PATIENCE_S: Final = 10.0
#: How soon to look again for a partner that is just being worked on.
AGAIN_S: Final = 1.0

_SIGNATURE: Final = ".sign"


def is_signature(name: str) -> bool:
    """Return whether this is a signature and not what is signed."""
    return name.removesuffix(".gz").endswith(_SIGNATURE)


def partner_names(name: str) -> tuple[str, ...]:
    """Return names that the other file of a pair may have.

    Agents sign the inventory before they compress it (`x.ocs.gz` with `x.ocs.sign`); what else
    is on the way may compress first, or the signature too.

    Args:
        name: base name of either.
    """
    bare = name.removesuffix(".gz")
    if is_signature(name):
        signed = bare.removesuffix(_SIGNATURE)
        plain = signed.removesuffix(".gz")
        names = (signed, f"{plain}.gz", plain)
    else:
        names = (f"{name}{_SIGNATURE}", f"{bare}{_SIGNATURE}", f"{bare}{_SIGNATURE}.gz")
    return tuple(dict.fromkeys(names))


class Pairing:
    """Makes parcels of what arrives in one watched directory.

    It remembers nothing: who waits for its partner waits in `pending` and is claimed when that
    arrives.
    """

    def __init__(self, directory: Path, pending: Pending) -> None:
        self._directory = directory
        self._pending = pending
        self._limiter = trio.CapacityLimiter(1)

    async def parcel(self, arrival: Arrival) -> list[Ticket]:
        """Return what is to be sent together, the signature first; nothing while a partner may come.

        The server never sees an inventory whose signature is not there yet.
        """
        look = partial(_look, self._directory, arrival.name)
        partner, age = await in_thread(look, limiter=self._limiter)
        now = trio.current_time()
        if partner is None:
            if 0 <= age < PATIENCE_S:
                self._pending.wait(arrival.name, PATIENCE_S - age)
                return []
            return [Ticket(arrival, now)]
        if self._pending.is_in_flight(partner):
            self._pending.wait(arrival.name, AGAIN_S)
            return []
        self._pending.claim(partner)
        pair = [arrival, Arrival(partner, atomic=True)]
        pair.sort(key=lambda file: not is_signature(file.name))
        return [Ticket(file, now) for file in pair]


def _look(directory: Path, name: str) -> tuple[str | None, float]:
    """Return the partner that is there, and the age of the file in seconds; an old one if it is gone."""
    for partner in partner_names(name):
        if _modified(directory / partner) is not None:
            return partner, 0.0
    modified = _modified(directory / name)
    return None, PATIENCE_S if modified is None else time.time() - modified


def _modified(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None
