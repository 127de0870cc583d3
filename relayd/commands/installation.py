"""The installation that a command works on, as far as its user may know it."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from relayd.config.main_conf import GeneralSettings, Settings, load_settings
from relayd.errors import RelaydError, StartError

#: Environment variable that names the control socket for who may not read main.conf.
SOCKET_VARIABLE: Final = "RELAYD_CONTROL_SOCKET"


class Installation(NamedTuple):
    """What a command needs to know.

    Attributes:
        socket: the control socket; None if the configuration has none.
        settings: None if this user may not read the configuration.
        unread: the file that this user may not read; None if there is none.
    """

    socket: Path | None
    settings: Settings | None
    unread: Path | None = None

    def needed(self, why: RelaydError) -> Settings:
        """Return the settings, to do without a relayd that cannot be asked.

        Args:
            why: it cannot be asked.

        Raises:
            StartError: this user may not read them.
        """
        if self.settings is None:
            raise StartError(self.explained(why))
        return self.settings

    def explained(self, why: RelaydError) -> str:
        """Return why relayd cannot be asked and, if that is so, why nothing works without it."""
        if self.settings is not None:
            return str(why)
        return f"{why}; without it, {self.unread} is needed, which this user may not read"


def find_installation(directory: Path) -> Installation:
    """Return the installation with this configuration directory.

    Members of the control socket's group need not be able to read the passwords in main.conf.

    Raises:
        ConfigError: main.conf is not valid.
        StartError: it cannot be read, for another reason than a lack of permission.
    """
    try:
        settings, _warnings = load_settings(directory)
    except StartError as error:
        if not all(isinstance(one.__cause__, PermissionError) for one in error.each()):
            raise
        return Installation(default_socket(), None, error.file)
    return Installation(settings.general.control_socket, settings)


def default_socket() -> Path | None:
    """Return the control socket for who may not read main.conf."""
    named = os.environ.get(SOCKET_VARIABLE)
    return Path(named) if named else GeneralSettings().control_socket
