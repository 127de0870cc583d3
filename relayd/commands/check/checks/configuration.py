"""The configuration files; the daemon's own readers find the faults, the fixes are here."""

from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file, quoted
from relayd.commands.check.settings.numbers import judge_numbers
from relayd.commands.check.settings.places import judge_openness
from relayd.config.database_url import EXPECTED as EXPECTED_URL
from relayd.config.logging_conf import LOGGING_FILE
from relayd.config.main_conf import MAIN_FILE, URL_KEY, Settings, load_logging, load_settings
from relayd.errors import ConfigError, ConfigWarning, RelaydError, SettingError, StartError

#: Code of the finding for each kind of warning.
_CODES: Final = {
    "unknown_key": "configuration.unknown_key",
    "mode": "configuration.mode",
    "unverified": "configuration.unverified",
    "unreadable": "configuration.missing",
}
_DOUBTFUL: Final = "configuration.doubtful"


def load(directory: Path) -> tuple[tuple[Settings, str] | None, list[Finding]]:
    """Read both files.

    Returns:
        The settings and the node id of this server, None when relayd would not start; and the
        findings.
    """
    found: list[Finding] = []
    loaded: tuple[Settings, str] | None = None
    main, logging = directory / MAIN_FILE, directory / LOGGING_FILE
    try:
        settings, warnings = load_settings(directory)
        found += [_warning(main, one) for one in warnings]
        loaded = settings, settings.node_id()
    except (ConfigError, StartError) as failure:
        found += _failed(main, failure)
    try:
        found += [_warning(logging, one) for one in load_logging(directory).warnings]
    except ConfigError as failure:
        found += _failed(logging, failure)
    return loaded, found


async def check(site: Site) -> list[Finding]:
    """Check that the service user can read the files, and that the outputs are usable."""
    paths = [site.directory / MAIN_FILE, site.directory / LOGGING_FILE]
    if site.settings.general.node_id is None:
        paths.append(site.settings.general.node_id_file)
    found: list[Finding] = []
    for path in paths:
        found += check_file(site, path, "configuration.permissions", device=True)
    found += judge_openness(site, "configuration.writable", site.main, "all of relayd")
    return found + judge_numbers(site) + _outputs(site)


def _outputs(site: Site) -> list[Finding]:
    main = site.directory / MAIN_FILE
    processing = site.settings.processing
    found: list[Finding] = []
    if site.to_upstream and not site.settings.output.upstream.host:
        what = 'an output is "upstream", but output.upstream.host is not set'
        fix = 'set output.upstream.host, or the output to "database" or "disabled"'
        found.append(error("configuration.no_upstream", main, what, fix))
    if processing.reporting.output == "disabled":
        what = "processing.reporting.output is disabled; run logs stay in the spool"
        fix = 'set it to "database" on the root server, to "upstream" on a relay'
        found.append(warning("configuration.idle", main, what, fix))
    if processing.inventory.output == "disabled" and site.my_id != "root":
        what = "processing.inventory.output is disabled; inventories stay in the spool"
        fix = 'set it to "upstream"'
        found.append(warning("configuration.idle", main, what, fix))
    return found


def _failed(path: Path, failure: RelaydError) -> list[Finding]:
    """Return the findings for all errors of a file, and for its warnings."""
    found = [_warning(path, one) for one in failure.warnings]
    for one in failure.each():
        if isinstance(one, ConfigError):
            found.append(_invalid(path, one))
        elif isinstance(one, StartError):
            found.append(_unreadable(path, one))
    return found


def _invalid(path: Path, failure: ConfigError) -> Finding:
    if isinstance(failure, SettingError):
        fix = f"set {failure.key}"
        if failure.instead is not None:
            return error(
                "configuration.invalid",
                path,
                failure.detail,
                f"spell {failure.instead} as {failure.key}",
            )
        if failure.expected == "a table" and failure.suggestion is not None:
            fix = f"write it as {failure.suggestion}"
        elif failure.key == URL_KEY and failure.expected != EXPECTED_URL:
            fix = f"correct that part of {failure.key}"
        elif failure.got is not None:
            fix = f"{fix} to {failure.expected}"
    elif failure.line is not None:
        fix = f"correct line {failure.line}"
        if failure.advice is not None:
            fix = f"{fix}: {failure.advice}"
    else:
        fix = "correct it; man relayd.conf describes every key and its values"
    return error("configuration.invalid", path, failure.detail, fix)


def _unreadable(main: Path, failure: StartError) -> Finding:
    """Return the finding about main.conf or about the file with the node id."""
    if failure.file == main:
        fix = "write it (man relayd.conf describes every key), or name its directory with -c"
        what = f"cannot be read: {failure.reason}" if failure.reason else "cannot be read"
        return error("configuration.missing", main, what, fix)
    fix = "set general.node_id, or write the node id into general.node_id_file"
    return error("configuration.node_id", main, str(failure), fix)


def _warning(path: Path, found: ConfigWarning) -> Finding:
    code = _CODES.get(found.kind, _DOUBTFUL)
    match found.kind:
        case "unknown_key" if found.suggestion is not None:
            fix = f"spell it {found.suggestion}, or remove it"
        case "mode":
            fix = f"chmod 0640 {quoted(path)}"
        case "unverified":
            fix = 'set general.peer_authentication to "cert_pinning"'
        case "database_url":
            fix = "remove it from the URL"
        case "doubtful":
            fix = f"set {found.key} to what is meant"
        case "log_filter":
            fix = "correct general.filter; man relayd.conf shows its forms"
        case "unreadable":
            fix = "write it (man relayd.conf describes every key)"
        case _:
            fix = "remove it"
    return warning(code, path, found.detail, fix)
