"""The parcels stage of inventories: files that must be sent together.

An inventory and its signature are of no use to a server without each other.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relayd.pipelines.ticket import Ticket
from relayd.spool.pending import Pending
from relayd.spool.watching.watcher import Arrival
from relayd.system.threads import in_thread

#: A file waits this long, since it was last written to, for the other one of its pair. An agent
#: uploads them one right after the other; if the other one comes later it is sent then, because a
#: server takes them in any order and agents without a key send no signature.
PATIENCE_S: Final = 1.0
#: How soon to check again for a partner that is in flight.
AGAIN_S: Final = 1.0

_SIGNATURE: Final = ".sign"

#: Files that leave the spool together, or not at all.
Parcel = list[Ticket]


async def run_parcels(
    source: trio.MemoryReceiveChannel[Arrival],
    parcels: trio.MemorySendChannel[Parcel],
    make: Callable[[Arrival], Awaitable[Parcel]],
) -> None:
    """Make parcels of what arrives; end with the source. Owns both channel ends."""
    with source, parcels:
        async for arrival in source:
            if parcel := await make(arrival):
                await parcels.send(parcel)


async def alone(arrival: Arrival) -> Parcel:
    """Return a parcel of one file."""
    return [Ticket(arrival.name, arrival.atomic, trio.current_time())]


def is_signature(name: str) -> bool:
    """Return whether this is a signature and not what is signed."""
    return name.removesuffix(".gz").endswith(_SIGNATURE)


def partner_names(name: str) -> tuple[str, ...]:
    """Return the names that the other file of a pair may have.

    Agents sign the inventory before they compress it (`x.ocs.gz` with `x.ocs.sign`); a server on
    the way may compress first, or compress the signature too.

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
    """Makes pairs of what arrives in one watched directory.

    It keeps no state: a file that waits for its partner waits in `pending` and is claimed when the
    partner arrives.
    """

    def __init__(self, directory: Path, pending: Pending) -> None:
        self._directory = directory
        self._pending = pending
        self._limiter = trio.CapacityLimiter(1)

    async def parcel(self, arrival: Arrival) -> Parcel:
        """Return what is sent together, the signature first; nothing while a partner may come.

        The server never sees an inventory whose signature has not arrived.
        """
        find = partial(_find_partner, self._directory, arrival.name)
        partner, age = await in_thread(find, limiter=self._limiter)
        if partner is None:
            if 0 <= age < PATIENCE_S:
                self._pending.wait(arrival.name, PATIENCE_S - age)
                return []
            return await alone(arrival)
        if self._pending.is_in_flight(partner):
            self._pending.wait(arrival.name, AGAIN_S)
            return []
        self._pending.claim(partner)
        now = trio.current_time()
        pair = [arrival, Arrival(partner, atomic=True)]
        pair.sort(key=lambda file: not is_signature(file.name))
        return [Ticket(file.name, file.atomic, now) for file in pair]


def _find_partner(directory: Path, name: str) -> tuple[str | None, float]:
    """Return the partner, if it exists, and the age of the file in seconds.

    A file that is gone counts as old.
    """
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
