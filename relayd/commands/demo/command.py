"""The command `relayd demo`."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from relayd.config.durations import parse_duration

_DEFAULT_NODES: Final = 200
_DEFAULT_INTERVAL: Final = 20.0
_INTERRUPTED: Final = 130
NOTHING_BEGUN: Final = "The demo was stopped before the nodes began to upload"


class Duration(click.ParamType[float]):
    """A duration in the syntax of `main.conf`: `10s`, `1min 30s`, or a number of seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the duration in seconds, more than 0."""
        text = str(value)
        try:
            seconds = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail("expected more than 0 seconds", param, ctx)
        return seconds


@click.command("demo")
@click.option(
    "--nodes",
    type=click.IntRange(2, 5000),
    default=_DEFAULT_NODES,
    show_default=True,
    help="Number of simulated nodes.",
)
@click.option(
    "--relays",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    help="Number of relays; every second one reports to the one before it, the others to the root.",
)
@click.option(
    "--interval",
    type=Duration(),
    help=(
        "Time between two runs of a node, for example 10s or 5min."
        f"  [default: {_DEFAULT_INTERVAL:.0f}s]"
    ),
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Run logs per second of the whole fleet; overrides --interval.",
)
@click.option(
    "--once",
    type=click.IntRange(1),
    metavar="N",
    help="Stop after N uploads; without --rate or --interval, upload as fast as possible.",
)
@click.option(
    "--bad",
    type=click.IntRange(0, 50),
    default=10,
    show_default=True,
    help="Percentage of uploads that are forged, damaged, from unknown nodes or sent twice.",
)
@click.option(
    "--story/--no-story",
    default=None,
    help=(
        "Stop the database for some seconds and kill relayd once while the fleet uploads."
        "  [default: yes, unless --once is given]"
    ),
)
@click.option(
    "--cluster",
    is_flag=True,
    help=(
        "Two relayds write to three PostgreSQL servers under Patroni, etcd and HAProxy, whose"
        " primary fails again and again."
    ),
)
@click.option(
    "--synchronous",
    is_flag=True,
    help="The cluster's commits wait for a standby, so that a failover loses none.",
)
@click.option(
    "--failovers",
    metavar="LIST",
    help=(
        "Failovers of the cluster, in their order, separated by commas: switchover, postmaster,"
        " machine, freeze, etcd.  [default: one of each, unless --once is given]"
    ),
)
@click.option("--part", type=Duration(), default=7.0, hidden=True)
@click.option(
    "--key-bits",
    type=click.Choice(["2048", "3072", "4096"]),
    default="2048",
    show_default=True,
    help="Size of the nodes' RSA keys, which are cached between runs.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write everything here and keep it.  [default: temporary, only the logs are kept]",
)
def command(
    *,
    nodes: int,
    relays: int,
    interval: float | None,
    rate: float | None,
    once: int | None,
    bad: int,
    story: bool | None,
    cluster: bool,
    synchronous: bool,
    failovers: str | None,
    part: float,
    key_bits: str,
    directory: Path | None,
) -> int:
    """Show relayd at work: a simulated fleet, a real daemon, an embedded PostgreSQL.

    No preparation is needed. Nothing is written outside its own directory, except for its caches.
    Exits with 0 if every upload is accounted for, with 1 if not.
    """
    if rate is None and (interval is not None or once is None):
        rate = nodes / (interval or _DEFAULT_INTERVAL)
    if cluster and relays:
        raise click.UsageError("--cluster cannot be used with --relays")
    if not cluster and (synchronous or failovers is not None):
        raise click.UsageError("--synchronous and --failovers need --cluster")
    _answer_interrupts()
    try:
        from rich.console import Console

        from relayd.commands.demo.cluster.failovers import FAILOVERS
        from relayd.commands.demo.run import ClusterOptions, Options, run

        eventful = once is None if story is None else story
        plan = _plan(failovers, [*FAILOVERS], default=eventful)
        options = Options(
            nodes=nodes,
            relays=relays,
            rate=rate,
            once=once,
            bad=bad,
            key_bits=int(key_bits),
            directory=directory,
            story=part if eventful else None,
            cluster=ClusterOptions(synchronous, plan, part) if cluster else None,
        )
        return run(options, Console(highlight=False))
    except KeyboardInterrupt:
        kept = directory is not None and directory.exists()
        left = f"what it wrote is in {directory}" if kept else "nothing is left of it"
        click.echo(f"{NOTHING_BEGUN}; {left}.")
        return _INTERRUPTED


def _plan(chosen: str | None, known: Sequence[str], *, default: bool) -> tuple[str, ...]:
    """Return the names of the failovers that an option names."""
    if chosen is None:
        return tuple(known) if default else ()
    names = tuple(name.strip() for name in chosen.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise click.UsageError(f"--failovers: expected {', '.join(known)}, got {name!r}")
    return names


def _answer_interrupts() -> None:
    """Answer an interrupt in one line from now on, until the demo itself waits for signals."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, _say_and_end)


def _say_and_end(_number: int, _frame: FrameType | None) -> None:
    # An exception could be lost in the import of a library.
    os.write(1, f"{NOTHING_BEGUN}; nothing is left of it.\n".encode())
    os._exit(_INTERRUPTED)
