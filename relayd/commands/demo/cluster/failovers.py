"""What may happen to the primary of a cluster."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import trio

from relayd.commands.demo.cluster.cluster import Cluster

#: Seconds that a frozen primary stays frozen after it was replaced, and that etcd is away.
_FROZEN_S: Final = 3.0
_ETCD_AWAY_S: Final = 12.0


async def switch_over(cluster: Cluster) -> None:
    """Change the primary as planned."""
    await cluster.switch_over()


async def kill_postmaster(cluster: Cluster) -> None:
    """Kill PostgreSQL; Patroni, if it is not to start it again, promotes another one."""
    primary = await cluster.primary()
    primary.kill_postmaster()
    await cluster.primary(after=primary)


async def kill_machine(cluster: Cluster) -> None:
    """Kill all of the primary's machine, and start it again when another one has replaced it."""
    primary = await cluster.primary()
    await primary.kill()
    try:
        await cluster.primary()
    finally:
        with trio.CancelScope(shield=True):
            await primary.patroni.start()


async def freeze_primary(cluster: Cluster) -> None:
    """Suspend the primary's machine, and resume it when another one has replaced it."""
    primary = await cluster.primary()
    primary.freeze()
    try:
        await cluster.primary()
        await trio.sleep(_FROZEN_S)
    finally:
        primary.thaw()


async def stop_etcd(cluster: Cluster) -> None:
    """Suspend all of etcd for a while."""
    cluster.stop_etcd()
    try:
        await trio.sleep(_ETCD_AWAY_S)
    finally:
        cluster.resume_etcd()
    await cluster.primary()


@dataclass(frozen=True, slots=True)
class Failover:
    """One kind of failover.

    Attributes:
        key: the key that starts it in a demo.
        text: what happens, a sentence.
        run: lets it happen to a healthy cluster; returns once a machine is the primary again.
    """

    key: str
    text: str
    run: Callable[[Cluster], Awaitable[None]]


#: By the names that `relayd demo --failovers` takes.
FAILOVERS: Final[Mapping[str, Failover]] = MappingProxyType(
    {
        "switchover": Failover("s", "Patroni switches over to a standby, as planned.", switch_over),
        "postmaster": Failover("p", "The primary's PostgreSQL is killed.", kill_postmaster),
        "machine": Failover(
            "m", "The primary's machine is gone, until it is replaced.", kill_machine
        ),
        "freeze": Failover(
            "f", "The primary's machine is frozen, and resumed later.", freeze_primary
        ),
        "etcd": Failover("e", f"All of etcd is frozen for {_ETCD_AWAY_S:.0f} s.", stop_etcd),
    }
)
