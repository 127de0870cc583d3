"""What this server is and processes, by its configuration."""

from collections.abc import Mapping

from relayd.config.main_conf import Settings
from relayd.overview.model import Kind, Role
from relayd.spool.layout import Spool, inventory_spool, run_log_spool
from relayd.system.locks import holder_of


def role_of(settings: Settings, node_id: str) -> Role:
    """Return what this server is in its fleet."""
    root = node_id == "root" or settings.processing.reporting.output == "database"
    return "root" if root else "relay"


def kinds_of(settings: Settings) -> tuple[Kind, ...]:
    """Return the kinds of files that it processes."""
    return tuple(spools_in_use(settings))


def spools_in_use(settings: Settings) -> Mapping[Kind, Spool]:
    """Return the spools of the files that it processes."""
    processing = settings.processing
    spools: dict[Kind, Spool] = {}
    if processing.reporting.output != "disabled":
        spools["reporting"] = run_log_spool(processing.reporting.directory)
    if processing.inventory.output != "disabled":
        spools["inventories"] = inventory_spool(processing.inventory.directory)
    return spools


def running_process(settings: Settings) -> int | None:
    """Return the process id of the relayd that uses these spools; None if none does."""
    for spool in spools_in_use(settings).values():
        for directory in spool.watched:
            process = holder_of(directory)
            if process is not None:
                return process
    return None
