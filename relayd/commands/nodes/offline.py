"""The nodes and their records while no relayd runs."""

from collections.abc import Mapping
from typing import Final

import click

from relayd.config.main_conf import Settings
from relayd.errors import NodesError, StartError
from relayd.fleet.finding import find_node
from relayd.fleet.loading import load_certificates_of, load_list
from relayd.fleet.nodes import Node, Nodes
from relayd.overview.fleet import Known, known_node, known_nodes
from relayd.system.shortage import words_of
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.nodes.saved import read_saved

#: Why the database, and other relays, are not asked.
STOPPED: Final = "relayd does not run"


def offline_known(settings: Settings) -> Known:
    """Return what the nodes list and the last records say; blocks."""
    nodes = Nodes(settings.node_id(), _list(settings))
    return known_nodes(nodes, _records(settings))


def offline_node(settings: Settings, part: str) -> tuple[Known, str]:
    """Return the same with the certificates of one node, and its id; blocks.

    Args:
        settings: of this machine.
        part: the id or host name of a node, or a part of either.

    Raises:
        RelaydError: no node fits, or several do; or a file cannot be read.
    """
    listed, general = _list(settings), settings.general
    node_id = find_node(part, {node.id: node.hostname for node in listed.values()})
    try:
        certificates = load_certificates_of(node_id, listed, general.nodes_certs_file)
    except NodesError as error:
        raise StartError(str(error)) from error
    nodes = Nodes(settings.node_id(), listed, certificates)
    return known_node(nodes, _records(settings), node_id), node_id


def _records(settings: Settings) -> NodeRecords:
    """Return the records that relayd has saved; empty ones if there are none that can be read."""
    records = NodeRecords()
    try:
        saved = read_saved(settings.general.state_directory)
        if saved is not None:
            records.restore(saved)
    except (OSError, ValueError) as error:
        detail = words_of(error) if isinstance(error, OSError) else str(error)
        click.echo(f"warning: history of the nodes cannot be read: {detail}", err=True)
    return records


def _list(settings: Settings) -> Mapping[str, Node]:
    try:
        return load_list(settings.general.nodes_list_file)
    except NodesError as error:
        raise StartError(str(error)) from error
