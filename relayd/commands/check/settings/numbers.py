"""Numbers that are valid, but far from anything useful: mostly a digit or a unit too many."""

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from relayd.commands.check.model import Finding, Site, error, warning
from relayd.config.main_conf import Settings
from relayd.config.toml import leaves
from relayd.system.amounts import span

#: Memory of a worker process, bytes.
WORKER_BYTES: Final = 45 * 2**20

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_MIB: Final = 2**20
_GIB: Final = 2**30


class Sensible(NamedTuple):
    """The range of a key, and what happens below and above it.

    Attributes:
        key: the key, or the end of several.
        low: the smallest sensible value.
        high: the largest.
        below: what a smaller one means.
        above: what a larger one means.
        seconds: whether it is a duration.
        off: a value that switches something off and is never reported.
    """

    key: str
    low: float
    high: float
    below: str
    above: str
    seconds: bool = False
    off: float | None = None


_LATE: Final = "files whose event was lost wait as long"
_OFTEN: Final = "the directory is read all the time"
_FULL: Final = "nothing bounds the size of failed"
_SOON: Final = "run logs are removed before a failover could need them"
_UNBOUNDED: Final = "nothing bounds what one node shares"
_MEMORY: Final = "files of this size need several times as much memory"

#: Every key with a number; those of `general.core_threads` depend on the machine.
RANGES: Final = (
    Sensible("general.blocking_threads", 4, 1000, "files wait for each other", "threads are used"),
    Sensible(
        "general.https_idle_timeout",
        0,
        _HOUR,
        "",
        "web servers close connections sooner",
        seconds=True,
    ),
    Sensible("catchup.frequency", 0.1, _HOUR, _OFTEN, _LATE, seconds=True, off=0),
    Sensible("catchup.limit", 0, 100_000, "", "new files wait for all old ones"),
    Sensible(
        "cleanup.frequency",
        1.0,
        7 * _DAY,
        _OFTEN,
        "old files are removed as late",
        seconds=True,
        off=0,
    ),
    Sensible(
        "cleanup.retention",
        _HOUR,
        366 * _DAY,
        "files expire in a short outage of the output",
        "refused files are kept as long",
        seconds=True,
    ),
    Sensible("cleanup.max_size", _MIB, 2**44, "refused files are removed at once", _FULL, off=0),
    Sensible("reporting.max_size", 64 * 1024, _GIB, "ordinary run logs are refused", _MEMORY),
    Sensible(
        "reporting.settle_time",
        0,
        _HOUR,
        "",
        "a truncated run log is examined again and again meanwhile",
        seconds=True,
    ),
    Sensible(
        "min_free_space",
        _MIB,
        2**40,
        "uploads are refused only once the disk is full",
        "uploads are refused although there is space",
        off=0,
    ),
    Sensible(".max_connections", 32, 20_000, "agents wait for each other", "descriptors run out"),
    Sensible(
        "max_connections_per_address",
        4,
        20_000,
        "a relay below uploads slowly",
        "one client may use all connections",
    ),
    Sensible("output.database.max_pool_size", 1, 1000, "", "the database allows fewer connections"),
    Sensible(
        "output.database.hold",
        10.0,
        _DAY,
        "a failover takes longer",
        "run logs are kept as long after their commit",
        seconds=True,
        off=0,
    ),
    Sensible("hold_max_files", 1000, 10**8, _SOON, "the spool runs out of inodes", off=0),
    Sensible("hold_max_size", _MIB, 2**44, _SOON, "nothing bounds the size of held", off=0),
    Sensible(
        "run.timeout",
        10.0,
        _DAY,
        "agents are ended before they are done",
        "a run that hangs is never ended",
        seconds=True,
    ),
    Sensible("run.max_commands", 1, 1000, "", "each is a process as root"),
    Sensible("shared_files.max_body_size", 1024, 2**40, "no file can be shared", "disks are full"),
    Sensible(
        "shared_files.max_ttl",
        _HOUR,
        100 * 366 * _DAY,
        "files are gone before nodes read them",
        "files are never removed",
        seconds=True,
    ),
    Sensible("shared_files.max_files", 10, 10**8, "few files can be shared", _UNBOUNDED, off=0),
    Sensible("shared_files.max_size", _MIB, 2**50, "few files can be shared", _UNBOUNDED, off=0),
)


def judge_numbers(site: Site) -> list[Finding]:
    """Report each number without sense."""
    found = [
        warning("configuration.number", site.main, what, fix)
        for what, fix in _judge_ranges(site.settings)
    ]
    return found + list(_judge_threads(site))


def _judge_ranges(settings: Settings) -> Iterator[tuple[str, str]]:
    for key, value in leaves(settings):
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        for one in RANGES:
            if not key.endswith(one.key) or value == one.off:
                continue
            shown = span if one.seconds else _plain
            if value < one.low:
                yield f"{key} is {shown(value)}: {one.below}", f"use {shown(one.low)} or more"
            elif value > one.high:
                yield f"{key} is {shown(value)}: {one.above}", f"use {shown(one.high)} or less"


def _plain(value: float) -> str:
    return f"{value:.0f}"


def _judge_threads(site: Site) -> Iterator[Finding]:
    """Compare the number of worker processes with the machine."""
    threads, cpus = site.settings.general.core_threads, os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = (threads - 1) * WORKER_BYTES
    if not site.to_database or threads <= max(4 * cpus, 8):
        return
    what = f"general.core_threads is {threads}, but this machine has {cpus} processors"
    fix = f"remove it, or use {cpus} or less"
    if needed > memory / 2:
        what = f"{what}; the worker processes need {needed / _GIB:.0f} GiB of memory"
        yield error("configuration.number", site.main, what, fix)
    else:
        yield warning("configuration.number", site.main, what, fix)
