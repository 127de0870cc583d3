"""`main.conf`: what an operator decides, as frozen values nested like the file.

Keys, defaults and meanings are those of Rudder's own relay daemon, so its files work unchanged;
docs/configuration.md lists them. All durations are float seconds, all sizes bytes.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from relayd.config import values as v
from relayd.config.database_url import DatabaseUrl, connect_arguments, split_password
from relayd.config.logging_conf import LoggingSettings, load_logging
from relayd.config.secret import Secret
from relayd.config.toml import Leaf, build, leaves, read_table
from relayd.config.values import Listen
from relayd.errors import ConfigError, StartError
from relayd.system.printable import printable

__all__ = [
    "Listen",
    "LoggingSettings",
    "Secret",
    "Settings",
    "changed_keys",
    "database_parameters",
    "load_logging",
    "load_settings",
]

MAIN_FILE: Final = "main.conf"
_DAY_S: Final = 86_400.0
_MAX_BODY: Final = 50 * 1024 * 1024
#: Room for a day of a large fleet whose certificates are missing, and less than a disk.
_MAX_FAILED: Final = 10 * 1024**3
#: Permission bits beyond 0640 that let others read or change the passwords.
_TOO_OPEN: Final = stat.S_IWGRP | stat.S_IRWXO
_MAX_ID_BYTES: Final = 4096
#: Keys that a reload takes in: from the next connection to the database, the next upload on.
_RELOADED: Final = frozenset(
    {
        "output.database.url",
        "output.database.password",
        "output.upstream.user",
        "output.upstream.password",
        "output.upstream.default_password",
    }
)
_UNVERIFIED: Final = "Certificate verification is disabled"


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


class General(msgspec.Struct, frozen=True, kw_only=True):
    """Table `general`."""

    nodes_list_file: v.FilePath = Path("/var/rudder/lib/relay/nodeslist.json")
    nodes_certs_file: v.FilePath = Path("/var/rudder/lib/ssl/shared/allnodescerts.pem")
    node_id: v.OptionalName = None
    node_id_file: v.FilePath = Path("/opt/rudder/etc/uuid.hive")
    listen: v.ListenAddress = Listen(host="127.0.0.1", port=3030)
    core_threads: v.Several = msgspec.field(default_factory=_cpus)
    blocking_threads: v.OptionalSeveral = None
    https_port: v.Port = 443
    https_idle_timeout: v.Duration = 2.0
    peer_authentication: Annotated[
        Literal["cert_pinning", "cert_validation", "dangerous_none"],
        v.choice("cert_pinning", "cert_validation", "dangerous_none"),
    ] = "cert_pinning"
    ca_path: v.OptionalFilePath = None


class Catchup(msgspec.Struct, frozen=True, kw_only=True):
    """How often a spool directory is listed, and how many of its files precede new ones."""

    frequency: v.Period = 10.0
    limit: v.Count = 50


class SpoolCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """How often old files are looked for, how old they may become, and how many bytes.

    Attributes:
        max_size: bytes that refused files may take together; 0: any number.
    """

    frequency: v.Period = 3600.0
    retention: v.Duration = 7 * _DAY_S
    max_size: v.Size = _MAX_FAILED


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing.inventory`."""

    directory: v.FilePath = Path("/var/rudder/inventories/")
    output: Annotated[Literal["disabled", "upstream"], v.choice("disabled", "upstream")] = (
        "disabled"
    )
    catchup: Catchup = Catchup()
    cleanup: SpoolCleanup = SpoolCleanup()


class Reporting(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing.reporting`.

    Attributes:
        skip_event_types: event types that are not inserted.
        max_size: bytes of one run log after decompression.
        settle_time: seconds; a younger file that looks cut short is looked at once more.
    """

    directory: v.FilePath = Path("/var/rudder/reports/")
    output: Annotated[
        Literal["disabled", "database", "upstream"], v.choice("disabled", "database", "upstream")
    ] = "disabled"
    skip_event_types: v.Names = ()
    max_size: v.Size = _MAX_BODY
    settle_time: v.Duration = 10.0
    catchup: Catchup = Catchup()
    cleanup: SpoolCleanup = SpoolCleanup()


class Processing(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing`."""

    inventory: Inventory = Inventory()
    reporting: Reporting = Reporting()


def _database_url(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 - every refusal of a value is a ValueError
    DatabaseUrl.parse(value)
    return value


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output.database`; `url` never holds a password."""

    url: Annotated[
        str, Leaf('a URL such as "postgres://user@host/database"', _database_url, confidential=True)
    ] = "postgres://rudder@127.0.0.1/rudder"
    password: v.OptionalPassword = None
    max_pool_size: v.Several = 10


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output.upstream`: the policy server of this relay."""

    host: v.Text = ""
    user: v.Name = "rudder"
    password: v.OptionalPassword = None
    default_password: v.Password = Secret("rudder")
    server_certificate_file: v.FilePath = Path("/var/rudder/lib/ssl/policy_server.pem")


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output`."""

    database: Database = Database()
    upstream: Upstream = Upstream()


class RemoteRun(msgspec.Struct, frozen=True, kw_only=True):
    """Table `remote_run`.

    Attributes:
        enabled: whether the HTTP API offers it.
        command: that starts agents.
        use_sudo: sudo runs it.
        helper: socket of the root helper, which runs its own command then, without sudo.
        timeout: seconds for one run.
        max_commands: commands that run at the same time.
    """

    enabled: v.Flag = True
    command: v.FilePath = Path("/opt/rudder/bin/rudder")
    use_sudo: v.Flag = True
    helper: v.OptionalSocketPath = None
    timeout: v.Period = 300.0
    max_commands: v.Several = 64


class SharedFilesCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """How often expired shared files are removed."""

    frequency: v.Period = 600.0


class SharedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Table `shared_files`."""

    path: v.FilePath = Path("/var/rudder/shared-files/")
    max_body_size: v.Size = _MAX_BODY
    cleanup: SharedFilesCleanup = SharedFilesCleanup()


class SharedFolder(msgspec.Struct, frozen=True, kw_only=True):
    """Table `shared_folder`."""

    path: v.FilePath = Path("/var/rudder/configuration-repository/shared-files/")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `main.conf`."""

    general: General = msgspec.field(default_factory=General)
    processing: Processing = Processing()
    output: Output = Output()
    remote_run: RemoteRun = RemoteRun()
    shared_files: SharedFiles = SharedFiles()
    shared_folder: SharedFolder = SharedFolder()

    def node_id(self) -> str:
        """Return my own node id: `general.node_id`, else what `general.node_id_file` holds.

        Reads that file, so call it once.

        Raises:
            StartError: the file cannot be read, or holds no id.
        """
        return self.general.node_id or _read_node_id(self.general.node_id_file)


def load_settings(directory: Path) -> tuple[Settings, list[str]]:
    """Read and check `main.conf`.

    Args:
        directory: the configuration directory.

    Returns:
        The settings, and warnings for the operator, one line each.

    Raises:
        ConfigError: the file is not valid (exit code 2).
        StartError: it, or the file with my node id, cannot be read (exit code 3).
    """
    path = directory / MAIN_FILE
    try:
        mode = path.stat().st_mode
        table = read_table(path)
    except OSError as error:
        raise StartError(f"Could not read main configuration file from {path}") from error
    settings, warnings = build(path, table, Settings)
    settings, more = _without_url_password(path, settings)
    warnings += more
    if mode & _TOO_OPEN:
        shown = f"{stat.S_IMODE(mode):04o}"
        warnings.append(f"{path}: mode {shown} opens the passwords to others, expected 0640")
    if settings.general.peer_authentication == "dangerous_none":
        warnings.append(_UNVERIFIED)
    # True is the default of use_sudo: only where it is written does it contradict.
    if settings.remote_run.helper is not None and table["remote_run"].get("use_sudo"):
        warnings.append(f"{path}: remote_run.use_sudo: no effect, remote_run.helper is used")
    _validate(path, settings)
    return settings, warnings


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """Return the dotted keys whose values differ and that a running relayd does not take in."""
    before = dict(leaves(old))
    return [key for key, value in leaves(new) if value != before[key] and key not in _RELOADED]


def database_parameters(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments for `asyncpg.connect`; see `connect_arguments`."""
    database = settings.output.database
    return connect_arguments(database.url, database.password)


def _without_url_password(path: Path, settings: Settings) -> tuple[Settings, list[str]]:
    """Drop a password from the database URL, so that no line that shows the URL shows it."""
    url, password = split_password(settings.output.database.url)
    warnings = [f"{path}: output.database.url: {text}" for text in DatabaseUrl.parse(url).warnings]
    if not password:
        return settings, warnings
    warnings.append(
        f"{path}: output.database.url: its password is ignored, output.database.password counts"
    )
    replace = msgspec.structs.replace
    database = replace(settings.output.database, url=url)
    return replace(settings, output=replace(settings.output, database=database)), warnings


def _validate(path: Path, settings: Settings) -> None:
    """Check what no key can be checked for alone."""
    outputs = {settings.processing.inventory.output, settings.processing.reporting.output}
    upstream, database = settings.output.upstream, settings.output.database
    if "upstream" in outputs and not upstream.password:
        raise _missing(path, "output.upstream.password", 'for an output to "upstream"')
    if "database" in outputs and not database.password:
        raise _missing(path, "output.database.password", 'for an output to "database"')
    if not upstream.host and settings.node_id() != "root":
        raise _missing(path, "output.upstream.host", "on every node but root")


def _missing(path: Path, key: str, why: str) -> ConfigError:
    return ConfigError(f"{path}: {key}: expected a value {why}, got none")


def _read_node_id(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_ID_BYTES)
    except OSError as error:
        raise StartError(f"Could not read my node id from {path}") from error
    node_id = data.decode("utf-8", "replace").strip()
    if not node_id:
        raise StartError(f"{path}: expected my node id, got an empty file")
    if not node_id.isprintable():
        raise StartError(f"{path}: expected my node id, got {printable(node_id, 60)}")
    return node_id
