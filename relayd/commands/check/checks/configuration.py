"""The configuration files, with a mend for what the daemon's own readers say about them."""

import re
from pathlib import Path
from typing import Final

from relayd.commands.check.model import Finding, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file
from relayd.config.logging_conf import LOGGING_FILE
from relayd.config.main_conf import MAIN_FILE, Settings, load_logging, load_settings
from relayd.errors import ConfigError, StartError

_MISSING: Final = re.compile(r"(\S+): (expected a value .*), got none")
_VALUE: Final = re.compile(r"(\S+): expected (.*), got .*", re.DOTALL)
_LINE: Final = re.compile(r"(line \d+), .*", re.DOTALL)
_UNKNOWN: Final = re.compile(r"(unknown key \S+?)(?:, did you mean (\S+)\?)?")
_URL: Final = re.compile(r"output\.database\.url: ")
_UNREADABLE: Final = re.compile(r"(.*), default logging is used")


def load(directory: Path) -> tuple[tuple[Settings, str] | None, list[Finding]]:
    """Read both files.

    Returns:
        The settings and my node id, None when relayd would not start; and what is wrong.
    """
    found: list[Finding] = []
    loaded: tuple[Settings, str] | None = None
    main, logging = directory / MAIN_FILE, directory / LOGGING_FILE
    try:
        settings, warnings = load_settings(directory)
        found += [_warning(main, text) for text in warnings]
        loaded = settings, settings.node_id()
    except ConfigError as failure:
        found.append(_invalid(main, str(failure)))
    except StartError as failure:
        found.append(_unreadable(main, failure))
    try:
        found += [_warning(logging, text) for text in load_logging(directory).warnings]
    except ConfigError as failure:
        found.append(_invalid(logging, str(failure)))
    return loaded, found


async def check(site: Site) -> list[Finding]:
    """Check that the service user can read the files, and that the keys make sense together."""
    found = check_file(site, site.directory / MAIN_FILE, "configuration.permissions")
    found += check_file(site, site.directory / LOGGING_FILE, "configuration.permissions")
    if site.settings.general.node_id is None:
        path = site.settings.general.node_id_file
        found += check_file(site, path, "configuration.permissions")
    return found + _outputs(site)


def _outputs(site: Site) -> list[Finding]:
    main = site.directory / MAIN_FILE
    processing = site.settings.processing
    found: list[Finding] = []
    if site.to_upstream and not site.settings.output.upstream.host:
        what = 'an output is "upstream", and output.upstream.host does not say who that is'
        mend = 'set output.upstream.host, or the output to "database" or "disabled"'
        found.append(error("configuration.no_upstream", main, what, mend))
    if processing.reporting.output == "disabled":
        what = "processing.reporting.output is disabled: run logs stay in the spool"
        mend = 'set it to "database" on the root server, to "upstream" on a relay'
        found.append(warning("configuration.idle", main, what, mend))
    if processing.inventory.output == "disabled" and site.my_id != "root":
        what = "processing.inventory.output is disabled: inventories stay in the spool"
        mend = 'set it to "upstream"'
        found.append(warning("configuration.idle", main, what, mend))
    return found


def _invalid(path: Path, text: str) -> Finding:
    what = text.removeprefix(f"{path}: ")
    mend = "correct it; docs/configuration.md lists every key and its values"
    if (missing := _MISSING.fullmatch(what)) is not None:
        mend = f"set {missing[1]}"
    elif (value := _VALUE.fullmatch(what)) is not None:
        mend = f"set {value[1]} to {value[2]}"
    elif (line := _LINE.fullmatch(what)) is not None:
        mend = f"correct {line[1]}; strings stand in double quotes"
    return error("configuration.invalid", path, what, mend)


def _unreadable(main: Path, failure: StartError) -> Finding:
    """Return a file without which relayd does not start: main.conf, or the one with my node id."""
    cause = failure.__cause__
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    text = str(failure)
    if text.endswith(str(main)):
        what = f"cannot be read: {reason}"
        mend = "write it (conf/main.conf shows every key), or name its directory with -c"
        return error("configuration.missing", main, what, mend)
    what = f"{text}: {reason}" if reason else text
    mend = "set general.node_id, or write the node id into general.node_id_file"
    return error("configuration.node_id", main, what, mend)


def _warning(path: Path, text: str) -> Finding:
    what = text.removeprefix(f"{path}: ")
    code, mend = "configuration.doubtful", "remove it"
    if (unknown := _UNKNOWN.fullmatch(what)) is not None:
        code, what = "configuration.unknown_key", unknown[1]
        mend = f"spell it {unknown[2]}, or remove it" if unknown[2] else "remove it"
    elif what.startswith("mode "):
        code, mend = "configuration.mode", f"chmod 0640 {path}"
    elif _URL.match(what) is not None:
        mend = "remove it from the URL"
    elif what == "Certificate verification is disabled":
        code = "configuration.unverified"
        mend = 'set general.peer_authentication to "cert_pinning"'
    elif _UNREADABLE.fullmatch(what) is not None:
        code, mend = "configuration.missing", "write it (conf/logging.conf shows every key)"
    return warning(code, path, what, mend)
