"""The installation that a command works on, as far as its user may know it."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from relayd.config.main_conf import MAIN_FILE, GeneralSettings, Settings, load_settings
from relayd.errors import RelaydError, StartError

#: Environment variable that names the control socket for who may not read main.conf.
SOCKET_VARIABLE: Final = "RELAYD_CONTROL_SOCKET"
#: Errors of a file that does not exist.
_MISSING: Final = (FileNotFoundError, NotADirectoryError)
_REMEDY: Final = f"name its directory with -c DIR, or the control socket with {SOCKET_VARIABLE}"


class Installation(NamedTuple):
    """What a command needs to know.

    Attributes:
        socket: the control socket; None if the configuration has none.
        settings: None if this user cannot read the configuration.
        unread: main.conf, if it cannot be read; else None.
        missing: whether that is because there is none.
    """

    socket: Path | None
    settings: Settings | None
    unread: Path | None = None
    missing: bool = False

    def needed(self, why: RelaydError) -> Settings:
        """Return the settings, to do without a relayd that cannot be asked.

        Args:
            why: it cannot be asked.

        Raises:
            StartError: this user cannot read them.
        """
        if self.settings is None:
            raise StartError(self.explained(why))
        return self.settings

    def explained(self, why: RelaydError) -> str:
        """Return why relayd cannot be asked and, if that is so, why nothing works without it."""
        if self.settings is not None:
            return str(why)
        return f"{why}; without it, main.conf is needed: {self.unreadable}"

    @property
    def unreadable(self) -> str:
        """Why there are no settings."""
        why = "does not exist" if self.missing else "may not be read by this user"
        return f"{self.unread} {why}"


def find_installation(directory: Path) -> Installation:
    """Return the installation with this configuration directory.

    Members of the control socket's group need not be able to read the passwords in main.conf.
    Without main.conf, the environment variable is enough.

    Raises:
        ConfigError: main.conf is not valid.
        StartError: it cannot be read, for another reason than a lack of permission; or it does not
            exist, and no variable names a socket.
    """
    try:
        settings, _warnings = load_settings(directory)
    except StartError as error:
        causes = [one.__cause__ for one in error.each()]
        if all(isinstance(cause, PermissionError) for cause in causes):
            return Installation(default_socket(), None, error.file)
        if error.file != directory / MAIN_FILE or not isinstance(error.__cause__, _MISSING):
            raise
        if not os.environ.get(SOCKET_VARIABLE):
            raise StartError(f"{error}; {_REMEDY}", file=error.file) from error
        return Installation(default_socket(), None, error.file, missing=True)
    return Installation(settings.general.control_socket, settings)


def default_socket() -> Path | None:
    """Return the control socket for who may not read main.conf."""
    named = os.environ.get(SOCKET_VARIABLE)
    return Path(named) if named else GeneralSettings().control_socket
