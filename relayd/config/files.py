"""Both configuration files at once, so that one run reports all of their faults."""

from pathlib import Path
from typing import NamedTuple

from relayd.config.logging_conf import LoggingSettings, load_logging
from relayd.config.main_conf import Settings, load_settings
from relayd.config.toml import joined
from relayd.errors import ConfigError, ConfigWarning, StartError


class Files(NamedTuple):
    """Both files.

    Attributes:
        settings: of `main.conf`.
        logging: of `logging.conf`, with its own warnings.
        warnings: about `main.conf`.
    """

    settings: Settings
    logging: LoggingSettings
    warnings: list[ConfigWarning]


def load_files(directory: Path) -> Files:
    """Read and check `main.conf` and `logging.conf`.

    Args:
        directory: the configuration directory.

    Raises:
        ConfigError: a file is not valid (exit code 2); the error carries all others.
        StartError: `main.conf` or the node id cannot be read (exit code 3).
    """
    try:
        settings, warnings = load_settings(directory)
    except (ConfigError, StartError) as error:
        try:
            found = load_logging(directory).warnings
            joined(error, warnings=(one for one in found if one.kind != "unreadable"))
        except ConfigError as other:
            joined(error, *other.each(), warnings=other.warnings)
        raise error from None
    try:
        return Files(settings, load_logging(directory), warnings)
    except ConfigError as error:
        error.warnings = (*warnings, *error.warnings)
        raise
