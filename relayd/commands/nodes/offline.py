"""The nodes and their records while no relayd runs."""

import click

from relayd.config.main_conf import Settings
from relayd.errors import NodesError, StartError
from relayd.fleet.loading import load_list, load_nodes
from relayd.fleet.nodes import Nodes
from relayd.overview.fleet import Known
from relayd.system.shortage import words_of
from relayd.telemetry.nodes.records import NodeRecords
from relayd.telemetry.nodes.saved import read_saved


def offline_known(settings: Settings, *, certificates: bool = False) -> Known:
    """Return what the nodes list and the last records say; blocks.

    Args:
        settings: of this machine.
        certificates: whether to read those too, which takes a second or two for a large fleet.
    """
    nodes = _nodes(settings, certificates=certificates)
    records = _records(settings)
    records.follow(nodes.ids())
    found = {record.node_id: record for record in records}
    return Known(nodes, found, records.last_hour(), records.since)


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


def _nodes(settings: Settings, *, certificates: bool) -> Nodes:
    my_id, general = settings.node_id(), settings.general
    try:
        if not certificates:
            return Nodes(my_id, load_list(general.nodes_list_file))
        return load_nodes(general.nodes_list_file, general.nodes_certs_file, my_id).nodes
    except NodesError as error:
        raise StartError(str(error)) from error
