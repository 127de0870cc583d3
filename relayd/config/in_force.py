"""Which version of each file a daemon has read: the time at which it had been modified.

The daemon shows these times among its metrics, and `relayd check` compares them with the files.
"""

from pathlib import Path
from typing import Final, Literal

from relayd.config.logging_conf import LOGGING_FILE
from relayd.config.main_conf import MAIN_FILE, Settings

#: A file that a reload reads again, as the label of the metric names it.
File = Literal["main", "logging", "nodes_list", "certificates", "upstream_certificate"]

#: Name of the metric, and of the one that counts changed keys that need a restart.
MODIFIED: Final = "file_modified_timestamp_seconds"
RESTART_KEYS: Final = "restart_needed_keys"


def files_of(directory: Path, settings: Settings) -> dict[File, Path]:
    """Return the files that a reload of this configuration reads."""
    general = settings.general
    files: dict[File, Path] = {
        "main": directory / MAIN_FILE,
        "logging": directory / LOGGING_FILE,
        "nodes_list": general.nodes_list_file,
        "certificates": general.nodes_certs_file,
    }
    if settings.output.upstream.host and general.peer_authentication == "cert_pinning":
        files["upstream_certificate"] = settings.output.upstream.server_certificate_file
    return files


def modified(path: Path) -> float:
    """Return when a file was last modified, unix time in seconds; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
