"""The command `relayd demo`."""

from pathlib import Path
from typing import Final

import click

from relayd.config.durations import parse_duration

_DEFAULT_NODES: Final = 200
_DEFAULT_INTERVAL: Final = 20.0


class Duration(click.ParamType[float]):
    """A duration as `main.conf` takes it: `10s`, `1min 30s`, or a number of seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds, more than 0."""
        text = str(value)
        try:
            seconds = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail("expected more than 0 seconds", param, ctx)
        return seconds


@click.command("demo")
@click.option("--nodes", type=click.IntRange(2, 5000), default=_DEFAULT_NODES, show_default=True)
@click.option(
    "--relays",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    help="Relays between the nodes and the root server; every second one is below another.",
)
@click.option(
    "--interval",
    type=Duration(),
    help=f"Time between two runs of one node, as 10s or 5min.  [default: {_DEFAULT_INTERVAL:.0f}s]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Run logs per second of the whole fleet, instead of --interval.",
)
@click.option(
    "--once",
    type=click.IntRange(1),
    metavar="N",
    help="Stop after N uploads; as fast as possible when neither rate nor interval is given.",
)
@click.option(
    "--bad",
    type=click.IntRange(0, 50),
    default=10,
    show_default=True,
    help="Per cent of uploads that are forged, damaged, strange or sent twice.",
)
@click.option(
    "--key-bits",
    type=click.Choice(["2048", "3072", "4096"]),
    default="2048",
    show_default=True,
    help="Size of the nodes' RSA keys; they are kept between runs.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write everything here and leave it.  [default: a temporary one, only logs remain]",
)
def command(
    *,
    nodes: int,
    relays: int,
    interval: float | None,
    rate: float | None,
    once: int | None,
    bad: int,
    key_bits: str,
    directory: Path | None,
) -> int:
    """Show relayd at work: a simulated fleet, a real daemon, an embedded PostgreSQL.

    Nothing has to be prepared and nothing outside its own directory is touched. Exit code 0 when
    everything that was sent is where it belongs, 1 when it is not.
    """
    from rich.console import Console

    from relayd.commands.demo.run import Options, run

    if rate is None and (interval is not None or once is None):
        rate = nodes / (interval or _DEFAULT_INTERVAL)
    options = Options(
        nodes=nodes,
        relays=relays,
        rate=rate,
        once=once,
        bad=bad,
        key_bits=int(key_bits),
        directory=directory,
    )
    return run(options, Console(highlight=False))
