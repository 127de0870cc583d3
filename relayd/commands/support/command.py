"""The command `relayd support`."""

import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click

from relayd import __version__
from relayd.commands.cli import Program, directory_option
from relayd.commands.support.archive import MANIFEST, Result, open_archive, run_part
from relayd.commands.support.configuration import find_secrets, load, users_of
from relayd.commands.support.masking import Masker
from relayd.commands.support.parts import make_parts
from relayd.overview.server import running_process
from relayd.system.amounts import counted, size
from relayd.system.printable import printable


@click.command("support", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@directory_option
@click.option(
    "-o",
    "--output",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The archive to write.  [default: relayd-support-HOST-TIME.tar.gz in this directory]",
)
def command(directory: Path, output: Path | None) -> int:
    """Write one archive for a bug report, with everything but secrets.

    It has versions, configuration, the findings of "relayd check", the state of the running
    relayd, its metrics, the end of its log, a listing of the spool, limits and units. Passwords,
    their hashes and private keys are starred out; names of hosts, nodes and files stay. Works
    whether relayd runs or not; what is missing is named in MANIFEST.txt. Changes nothing else.
    """
    loaded = load(directory)
    mask = Masker(
        find_secrets(directory, loaded, running_process(loaded.settings)), users_of(loaded.settings)
    )
    name = f"relayd-support-{_host()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = output or Path(f"{name}.tar.gz")
    results: list[Result] = []
    with open_archive(path, name) as archive:
        parts = make_parts(directory, loaded)
        for number, (file, part) in enumerate(parts.items(), 1):
            _show_progress(f"[{number}/{len(parts)}] {file}")
            result = run_part(file, part, mask)
            results.append(result)
            if not result.missing:
                archive.add(file, result.text)
        archive.add(MANIFEST, _manifest(name, results, mask(loaded.trouble)))
    _report(path, results)
    return 0


def _host() -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in socket.gethostname())


def _show_progress(text: str) -> None:
    """Show the progress, if somebody looks."""
    if sys.stderr.isatty():
        click.echo(text, err=True)


def _manifest(name: str, results: Iterable[Result], trouble: str) -> str:
    lines = [f"{name}, written by relayd {__version__}"]
    lines.append("Passwords, their hashes and private keys are starred out. Names are not.")
    if trouble:
        lines.append(f"The configuration is not known, so defaults were assumed: {trouble}")
    lines.append("")
    for result in results:
        state = (
            f"missing: {result.missing}" if result.missing else f"{len(result.text):,} characters"
        )
        note = f"; {result.note}" if result.note else ""
        lines.append(f"{result.name:<18} {result.seconds:5.1f} s  {state}{note}")
    return "\n".join(lines) + "\n"


def _report(path: Path, results: list[Result]) -> None:
    missing = [result for result in results if result.missing]
    click.echo(f"Wrote {path} ({size(path.stat().st_size)}), which only you can read.")
    for result in missing:
        click.echo(f"  without {result.name}: {printable(result.missing)}")
    if missing:
        click.echo(f"{counted(len(missing), 'part')} could not be collected.")
    click.echo("It has no passwords or keys, but names of hosts, nodes and files: look through")
    click.echo(f"it before you send it: tar -xzf {path}")
