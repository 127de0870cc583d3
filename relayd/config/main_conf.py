"""`main.conf` as frozen values, nested like the file.

Keys, defaults and meanings are those of Rudder's own relay daemon, so its files work unchanged;
docs/configuration.md lists them. All durations are seconds (float), all sizes bytes.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from relayd.config import proxy
from relayd.config import values as v
from relayd.config.database_url import EXPECTED as EXPECTED_URL
from relayd.config.database_url import DatabaseUrl, connect_arguments, split_password
from relayd.config.logging_conf import LoggingSettings, load_logging
from relayd.config.proxy import Proxy
from relayd.config.required import missing_host, missing_values, node_id_of
from relayd.config.secret import Secret
from relayd.config.toml import Leaf, build_all, joined, leaves, read_lines
from relayd.config.values import Listen
from relayd.errors import ConfigWarning, RelaydError, StartError, TransientStartError, start_error
from relayd.system.files import open_regular
from relayd.system.printable import printable
from relayd.system.shortage import words_of

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
URL_KEY: Final = "output.database.url"
_DAY_S: Final = 86_400.0
_MAX_BODY: Final = 50 * 1024 * 1024
#: Enough for a day of a large fleet whose certificates are missing, and less than a disk.
_MAX_FAILED: Final = 10 * 1024**3
#: Permission bits beyond 0640 with which others can read or change the passwords.
_TOO_OPEN: Final = stat.S_IWGRP | stat.S_IRWXO
_MAX_ID_BYTES: Final = 4096
#: Keys that a reload applies, from the next connection to the database or the next upload on.
_RELOADED: Final = frozenset(
    {
        URL_KEY,
        "output.database.password",
        "output.upstream.user",
        "output.upstream.password",
        "output.upstream.default_password",
    }
)
_FILE_OF_ID: Final = "general.node_id_file, as general.node_id is not set"
#: Keys and tables that are rather meant for logging.conf → what they are there.
_OF_LOGGING: Final = {
    **dict.fromkeys(("level", "log_level", "loglevel"), "general.level of logging.conf"),
    **dict.fromkeys(("log", "logging"), "general of logging.conf"),
    "filter": "general.filter of logging.conf",
    "file_lines": "general.file_lines of logging.conf",
}
_UNVERIFIED: Final = "Certificate verification is disabled"


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


class GeneralSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `general`."""

    nodes_list_file: v.FilePath = Path("/var/rudder/lib/relay/nodeslist.json")
    nodes_certs_file: v.FilePath = Path("/var/rudder/lib/ssl/shared/allnodescerts.pem")
    node_id: v.OptionalName = None
    node_id_file: v.FilePath = Path("/opt/rudder/etc/uuid.hive")
    listen: v.ListenAddress = Listen(host="127.0.0.1", port=3030)
    control_socket: v.ControlSocketPath = Path("/run/rudder-relayd/control.sock")
    state_directory: v.FilePath = Path("/var/lib/rudder-relayd")
    core_threads: v.Several = msgspec.field(default_factory=_cpus)
    blocking_threads: v.OptionalSeveral = None
    https_port: v.Port = 443
    https_idle_timeout: v.Duration = 2.0
    peer_authentication: Annotated[
        Literal["cert_pinning", "cert_validation", "dangerous_none"],
        v.choice("cert_pinning", "cert_validation", "dangerous_none"),
    ] = "cert_pinning"
    ca_path: v.OptionalFilePath = None
    https_proxy: Annotated[
        Proxy | None, Leaf(proxy.EXPECTED, proxy.read_proxy, confidential=True)
    ] = None
    no_proxy: Annotated[
        tuple[str, ...], Leaf("an array of strings, or a string", proxy.read_exceptions)
    ] = ()


class CatchupSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often a spool directory is listed, and how many of its files go before new ones."""

    frequency: v.Frequency = 10.0
    limit: v.Count = 50


class SpoolCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """How often old files are removed, their maximum age, and the size of all refused files.

    Attributes:
        max_size: maximum bytes of all refused files together; 0: no limit.
    """

    frequency: v.Frequency = 3600.0
    retention: v.Duration = 7 * _DAY_S
    max_size: v.Size = _MAX_FAILED


class InventorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing.inventory`."""

    directory: v.FilePath = Path("/var/rudder/inventories/")
    output: Annotated[Literal["disabled", "upstream"], v.choice("disabled", "upstream")] = (
        "disabled"
    )
    catchup: CatchupSettings = CatchupSettings()
    cleanup: SpoolCleanup = SpoolCleanup()


class ReportingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing.reporting`.

    Attributes:
        skip_event_types: event types that are not inserted.
        max_size: maximum bytes of one run log after decompression.
        settle_time: seconds; a younger file that looks truncated is examined once more.
    """

    directory: v.FilePath = Path("/var/rudder/reports/")
    output: Annotated[
        Literal["disabled", "database", "upstream"], v.choice("disabled", "database", "upstream")
    ] = "disabled"
    skip_event_types: v.Names = ()
    max_size: v.Size = _MAX_BODY
    settle_time: v.Duration = 10.0
    catchup: CatchupSettings = CatchupSettings()
    cleanup: SpoolCleanup = SpoolCleanup()

    @property
    def examined_here(self) -> bool:
        """Whether run logs are examined on this server, which needs the nodes list."""
        return self.output not in {"disabled", "upstream"}


class ProcessingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `processing`."""

    inventory: InventorySettings = InventorySettings()
    reporting: ReportingSettings = ReportingSettings()


def _database_url(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004 - any invalid value is a ValueError
    DatabaseUrl.parse(value)
    return value


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output.database`; `url` never holds a password.

    Attributes:
        hold: seconds for which committed run logs are kept, because a failover could take their
            commits back; 0: not at all.
        hold_max_files: maximum number of files that are kept; 0: no limit.
        hold_max_size: maximum bytes of these files; 0: no limit.
    """

    url: Annotated[str, Leaf(EXPECTED_URL, _database_url, confidential=True)] = (
        "postgres://rudder@127.0.0.1/rudder"
    )
    password: v.OptionalPassword = None
    max_pool_size: v.Several = 10
    hold: v.Duration = 0.0
    hold_max_files: v.Count = 1_000_000
    hold_max_size: v.Size = _MAX_FAILED


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output.upstream`: the policy server of this relay."""

    host: v.OptionalHost = ""
    user: v.Name = "rudder"
    password: v.OptionalPassword = None
    default_password: v.Password = Secret("rudder")
    server_certificate_file: v.FilePath = Path("/var/rudder/lib/ssl/policy_server.pem")


class OutputSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `output`."""

    database: DatabaseSettings = DatabaseSettings()
    upstream: UpstreamSettings = UpstreamSettings()


class RemoteRunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `remote_run`.

    Attributes:
        enabled: whether the HTTP API offers remote runs.
        command: the command that starts agents; relative to the directory in which relayd runs.
        use_sudo: whether sudo runs the command.
        helper: socket of the root helper, which then runs its own command, without sudo.
        timeout: maximum seconds of one run.
        max_commands: maximum number of commands at the same time.
    """

    enabled: v.Flag = True
    command: v.CommandPath = "/opt/rudder/bin/rudder"
    use_sudo: v.Flag = True
    helper: v.OptionalSocketPath = None
    timeout: v.Period = 300.0
    max_commands: v.Several = 64


class SharedFilesCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """How often expired shared files are removed."""

    frequency: v.Frequency = 600.0


class SharedFilesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `shared_files`.

    Attributes:
        max_ttl: seconds after which a file is removed at the latest.
        max_files: number of files of one source, for all targets together; 0: no limit.
        max_size: bytes of these files; 0: no limit.
    """

    path: v.FilePath = Path("/var/rudder/shared-files/")
    max_body_size: v.Size = _MAX_BODY
    max_ttl: v.Duration = 365 * _DAY_S
    max_files: v.Count = 200_000
    max_size: v.Size = 1024 * _MAX_BODY
    cleanup: SharedFilesCleanup = SharedFilesCleanup()


class SharedFolderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `shared_folder`."""

    path: v.FilePath = Path("/var/rudder/configuration-repository/shared-files/")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `server`: the HTTPS server for agents and relays, in place of a web server.

    Attributes:
        listen: addresses; without any, there is no such server.
        certificate_file: certificate of this server, PEM, which its agents and relays pin.
        passwords_file: accounts for uploads, as htpasswd writes them.
        initial_passwords_file: the same for inventories of new nodes.
        networks: of the nodes.
        networks_file: further ones, as lines `Require ip`.
        policy_servers: networks from which agents may be started.
        policy_servers_file: further ones, as lines `Require ip`.
        share_directory: policies by node id, and files for all nodes in `common`.
        min_free_space: bytes of the disk below which no upload is taken.
        max_connections: clients at once.
        max_connections_per_address: the same for one address.
        refuse_early: whether run logs are refused before they are stored if their name suffices.
        http2: whether HTTP/2 is offered.
    """

    listen: v.ListenAddresses = ()
    certificate_file: v.FilePath = Path("/opt/rudder/etc/ssl/agent.cert")
    key_file: v.FilePath = Path("/var/rudder/cfengine-community/ppkeys/localhost.priv")
    passwords_file: v.FilePath = Path("/opt/rudder/etc/htpasswd-webdav")
    initial_passwords_file: v.FilePath = Path("/opt/rudder/etc/htpasswd-webdav-initial")
    networks: v.Networks = ()
    networks_file: v.FilePath = Path("/opt/rudder/etc/rudder-networks-24.conf")
    policy_servers: v.Networks = ()
    policy_servers_file: v.FilePath = Path("/opt/rudder/etc/rudder-networks-policy-server-24.conf")
    share_directory: v.FilePath = Path("/var/rudder/share/")
    min_free_space: v.Size = 256 * 1024 * 1024
    max_connections: v.Several = 1024
    max_connections_per_address: v.Several = 128
    refuse_early: v.Flag = False
    http2: v.Flag = True


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of `main.conf`."""

    general: GeneralSettings = msgspec.field(default_factory=GeneralSettings)
    processing: ProcessingSettings = ProcessingSettings()
    output: OutputSettings = OutputSettings()
    remote_run: RemoteRunSettings = RemoteRunSettings()
    shared_files: SharedFilesSettings = SharedFilesSettings()
    shared_folder: SharedFolderSettings = SharedFolderSettings()
    server: ServerSettings = ServerSettings()

    @property
    def keeps_run_logs(self) -> bool:
        """Whether committed run logs are kept for a while."""
        return self.processing.reporting.output == "database" and self.output.database.hold > 0

    def node_id(self) -> str:
        """Return the node id of this server, from `general.node_id` or `general.node_id_file`.

        Reads that file, so call it once.

        Raises:
            StartError: the file cannot be read, or does not hold an id.
        """
        return self.general.node_id or _read_node_id(self.general.node_id_file)


def load_settings(directory: Path) -> tuple[Settings, list[ConfigWarning]]:
    """Read and check `main.conf`.

    Args:
        directory: the configuration directory.

    Returns:
        The settings and the warnings for the operator.

    Raises:
        ConfigError: the file is not valid (exit code 2).
        StartError: it, or the file with the node id, cannot be read (exit code 3).
    """
    path = directory / MAIN_FILE
    try:
        mode = path.stat().st_mode
        table, syntax_errors = read_lines(path)
    except OSError as error:
        problem = f"Could not read main configuration file from {path}"
        raise StartError(problem, file=path, reason=words_of(error)) from error
    settings, warnings, value_errors = build_all(path, table, Settings)
    warnings = [_of_logging(warning) for warning in warnings]
    warnings += _url_warnings(path, settings.output.database.url)
    warnings += _contradictions(path, mode, settings, table)
    settings = _without_url_password(settings)
    errors: list[RelaydError] = [*syntax_errors, *value_errors]
    if not syntax_errors:  # what is missing may be in a line that could not be read
        errors += missing_values(path, _required(settings), value_errors, warnings)
        node_id = node_id_of(settings.node_id, value_errors)
        if isinstance(node_id, StartError):
            errors.append(node_id)
        elif node_id and not settings.output.upstream.host:
            key = "general.node_id" if settings.general.node_id else "general.node_id_file"
            errors += missing_host(path, key, node_id, value_errors, warnings)
    if errors:
        raise joined(*errors, warnings=warnings)
    return settings, warnings


def _of_logging(warning: ConfigWarning) -> ConfigWarning:
    """Let the warning about a key of logging.conf name that file."""
    name = (warning.key or "").rpartition(".")[2].lower()
    if warning.kind != "unknown_key" or name not in _OF_LOGGING:
        return warning
    return msgspec.structs.replace(warning, suggestion=_OF_LOGGING[name])


def _contradictions(
    path: Path, mode: int, settings: Settings, table: dict[str, Any]
) -> Iterator[ConfigWarning]:
    """Yield a warning for each setting that weakens or contradicts another."""
    if mode & _TOO_OPEN:
        detail = f"mode {stat.S_IMODE(mode):04o} exposes the passwords, expected 0640"
        yield ConfigWarning(kind="mode", detail=detail, file=path)
    if settings.general.peer_authentication == "dangerous_none":
        key = "general.peer_authentication"
        yield ConfigWarning(kind="unverified", detail=_UNVERIFIED, key=key)
    # use_sudo defaults to true, so warn only if it was set explicitly.
    if settings.remote_run.helper is not None and table["remote_run"].get("use_sudo"):
        key = "remote_run.use_sudo"
        detail = f"{key}: no effect, remote_run.helper is used"
        yield ConfigWarning(kind="no_effect", detail=detail, key=key, file=path)


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """Return the dotted keys whose values differ and that a reload does not apply."""
    before = dict(leaves(old))
    return [key for key, value in leaves(new) if value != before[key] and key not in _RELOADED]


def database_parameters(settings: Settings) -> dict[str, Any]:
    """Return libpq's options with the password; see `connect_arguments`."""
    database = settings.output.database
    return connect_arguments(database.url, database.password)


def _url_warnings(path: Path, url: str) -> Iterator[ConfigWarning]:
    """Yield a warning for each part of the database URL that has no effect."""
    key = URL_KEY
    details = [f"option {name} is not used" for name in DatabaseUrl.parse(url).unused]
    if split_password(url)[1]:
        details.append("the password in it is ignored, output.database.password is used")
    for detail in details:
        yield ConfigWarning(kind="database_url", detail=f"{key}: {detail}", key=key, file=path)


def _without_url_password(settings: Settings) -> Settings:
    """Drop the password from the database URL, so that lines with the URL never show it."""
    url, password = split_password(settings.output.database.url)
    if not password:
        return settings
    replace = msgspec.structs.replace
    database = replace(settings.output.database, url=url)
    return replace(settings, output=replace(settings.output, database=database))


def _required(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each key that is missing although an output needs it, and why."""
    outputs = {settings.processing.inventory.output, settings.processing.reporting.output}
    upstream, database = settings.output.upstream, settings.output.database
    # An empty password is one: the server may trust the connection, or the password is set later.
    if "upstream" in outputs and upstream.password is None:
        yield "output.upstream.password", 'for an output to "upstream"'
    if "database" in outputs and database.password is None:
        yield "output.database.password", 'for an output to "database"'


def _read_node_id(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_ID_BYTES)
    except OSError as error:
        problem = f"Could not read the node id from {path} ({_FILE_OF_ID})"
        raise start_error(problem, error, file=path, words=words_of(error)) from error
    node_id = data.decode("utf-8-sig", "replace").strip()
    if not node_id:
        detail = f"{path}: expected a node id, got an empty file ({_FILE_OF_ID})"
        raise TransientStartError(detail, file=path)
    if not node_id.isprintable():
        detail = f"{path}: expected a node id, got {printable(node_id, 60)} ({_FILE_OF_ID})"
        raise StartError(detail, file=path)
    return node_id
