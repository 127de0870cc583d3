"""The command `relayd demo`."""

from pathlib import Path
from typing import Final

import click

_DEFAULT_NODES: Final = 200
_DEFAULT_INTERVAL: Final = 20.0


@click.command("demo")
@click.option("--nodes", type=click.IntRange(2, 5000), default=_DEFAULT_NODES, show_default=True)
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds between two runs of one node.  [default: {_DEFAULT_INTERVAL:.0f}]",
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

    from relayd.demo.play import Options, run

    if rate is None and (interval is not None or once is None):
        rate = nodes / (interval or _DEFAULT_INTERVAL)
    options = Options(
        nodes=nodes,
        rate=rate,
        once=once,
        bad=bad,
        key_bits=int(key_bits),
        directory=directory,
    )
    return run(options, Console(highlight=False))
