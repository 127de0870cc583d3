"""The commands `relayd nodes` and `relayd node`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import msgspec

from relayd.commands.asking import ask, optional_duration
from relayd.commands.cli import Program, directory_option
from relayd.commands.completion import complete_node
from relayd.commands.console import output_width, plain_console
from relayd.commands.installation import find_installation
from relayd.commands.nodes.screen import node_lines, nodes_summary, show_nodes
from relayd.config.main_conf import Settings
from relayd.control.client import Control
from relayd.errors import RelaydError, StartError
from relayd.overview.documents import as_document, from_document, json_line
from relayd.overview.fleet import FleetView
from relayd.overview.nodes import NodesChoice, NodesPage, Sort
from relayd.overview.one_node import Asked, NodeDetail

_SETTINGS = {"help_option_names": ["-h", "--help"]}
_json_option = click.option("--json", "machine", is_flag=True, help="Print a JSON document.")


@click.command("nodes", cls=Program, context_settings=_SETTINGS)
@directory_option
@click.option(
    "--silent",
    metavar="DURATION",
    callback=optional_duration,
    help='Only nodes without a run log for this time, as "15min" or "2h".',
)
@click.option(
    "--failing",
    is_flag=True,
    help="Only nodes of which the last run log was refused, or of which refused files are kept.",
)
@click.option(
    "--relay",
    metavar="RELAY",
    help="Only nodes that report through this relay, named as a node is; see relayd node.",
)
@click.option(
    "--sort",
    type=click.Choice(["silence", "waiting", "rate", "failed"]),
    default="silence",
    show_default=True,
    help="Show first: the longest silent, most waiting files, most run logs, most refused files.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Show at most this many nodes.",
)
@_json_option
def command(
    directory: Path,
    silent: float | None,
    relay: str | None,
    sort: Sort,
    limit: int,
    *,
    failing: bool,
    machine: bool,
) -> int:
    """Say which nodes have not reported, are refused, or flood.

    WAIT and FAILED count their files that wait and that were refused, /HOUR the run logs of the
    last hour; THROUGH is the relay.
    """
    site = find_installation(directory)
    choice = NodesChoice(silent=silent, failing=failing, relay=relay, sort=sort, limit=limit)
    page = ask(
        site, NodesPage, partial(nodes_page, choice=choice), partial(_page_here, choice=choice)
    )
    if machine:
        click.echo(json_line(as_document(page)))
        return 0
    if page.rows:
        with plain_console() as console:
            show_nodes(console, page, time.time())
    click.echo(nodes_summary(page, choice, output_width()))
    return 0


def nodes_page(control: Control, choice: NodesChoice) -> NodesPage:
    """Return the nodes that are meant, as the running relayd knows them."""
    return from_document(control.get("/nodes", **msgspec.structs.asdict(choice)), NodesPage)


def _page_here(settings: Settings, choice: NodesChoice) -> NodesPage:
    from relayd.commands.nodes.offline import offline_known

    with _as_mistakes():
        return FleetView(settings).some(offline_known(settings), choice)


@contextmanager
def _as_mistakes() -> Iterator[None]:
    """Make the errors of a choice errors of the command."""
    try:
        yield
    except StartError:
        raise
    except RelaydError as error:
        raise StartError(str(error)) from None


@click.command("node", cls=Program, context_settings=_SETTINGS)
@directory_option
@click.argument("part", metavar="NODE", shell_complete=complete_node)
@click.option(
    "--follow-relays",
    "follow",
    is_flag=True,
    help="Ask the relays on the way too, each about this node; takes some seconds if one is away.",
)
@_json_option
def node(directory: Path, part: str, *, follow: bool, machine: bool) -> int:
    """Show all about one node: its way, certificate, last run log, waiting and failed files.

    NODE is its id, its host name with or without the domain, or a part of either that no other
    node has.
    """
    detail = ask(
        find_installation(directory),
        NodeDetail,
        partial(_detail, part=part, follow=follow),
        partial(_detail_here, part=part),
    )
    if machine:
        click.echo(json_line(as_document(detail)))
        return 0
    for line in node_lines(detail, follow=follow, width=output_width()):
        click.echo(line)
    return 0


def _detail(control: Control, part: str, *, follow: bool) -> NodeDetail:
    return from_document(control.get(f"/nodes/{part}", follow=follow), NodeDetail)


def _detail_here(settings: Settings, part: str) -> NodeDetail:
    from relayd.commands.nodes.offline import STOPPED, offline_node

    with _as_mistakes():
        known, node_id = offline_node(settings, part)
        return FleetView(settings).one(known, node_id, Asked(database_trouble=STOPPED))
