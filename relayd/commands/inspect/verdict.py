"""The verdict on a file, given by the same functions as in the daemon.

`relayd.fleet.admission.admit` and `relayd.pipelines.workers.job.examine_one` decide, so verdict and
reason are those of the daemon. Only these differences are intended:

* A symbolic link is followed, because the operator named it. The daemon refuses it.
* `NAME.signed` is judged as `NAME.log`, if that is the name of a run log.
* The file may be anywhere and have any name. The daemon only takes files from its spool that have
  an extension of run logs and are not hidden.
* A file is judged once. The daemon waits for the rest of a file that may be unfinished, and may
  refuse a file because it is too old, ends its worker process, or is rejected by the database.
* Without a nodes list every node is unknown. The daemon waits for a nodes list.
* Access rights, and the rule for files with several names (hard links), are those of the account
  that runs the command.

docs/inspect.md lists them too.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from relayd.config.main_conf import load_settings
from relayd.errors import Gone, NodesError, Refused, Retry, StartError
from relayd.fleet.admission import KnownNodes, admit
from relayd.fleet.loading import load_nodes
from relayd.pipelines.workers.job import Job, Setup, examine_one
from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLog
from relayd.spool.opening import try_later

#: Common extension for the output of `openssl smime -sign`.
SIGNED: Final = ".signed"

Verdict = RunLog | Refused | Retry | Gone


class Criteria(msgspec.Struct, frozen=True):
    """The settings that a verdict depends on.

    Attributes:
        nodes: the known nodes and their certificates.
        max_size: maximum size of a run log in bytes, packed and unpacked.
        skip_event_types: event types that are not inserted.
        advice: added to the faults of a file if certificates are missing; may be empty.
    """

    nodes: KnownNodes
    max_size: int
    skip_event_types: frozenset[str]
    advice: str = ""


def configured(directory: Path) -> tuple[Criteria, list[str]]:
    """Return the criteria of a configuration, and warnings about its nodes and certificates.

    Raises:
        ConfigError: the configuration is not valid.
        StartError: the nodes list or the certificates cannot be used.
    """
    settings, _warnings = load_settings(directory)
    general, reporting = settings.general, settings.processing.reporting
    try:
        loaded = load_nodes(general.nodes_list_file, general.nodes_certs_file, settings.node_id())
    except NodesError as error:
        raise StartError(str(error)) from error
    missing = [f"{general.nodes_list_file} does not exist"] if loaded.list_missing else []
    criteria = Criteria(loaded.nodes, reporting.max_size, frozenset(reporting.skip_event_types))
    return criteria, [*missing, *map(str, loaded.warnings)]


def judge(path: Path, criteria: Criteria, received_as: str = "") -> Verdict:
    """Return what the daemon would make of a file.

    Args:
        path: the file.
        criteria: the settings.
        received_as: the name that it had in the spool, if that is not its name now.

    Returns:
        The run log if it would be accepted; `Gone` if the file does not exist; `Retry` if the
        system does not let this account reach it.
    """
    try:
        # The kernel resolves the links first: it bounds their number.
        path.stat()
        directory, name = os.path.split(os.path.realpath(path))
    except FileNotFoundError:
        return Gone()
    except OSError as error:
        return try_later("cannot be read", error)
    admission = admit(spool_name(received_as or path.name), criteria.nodes)
    if isinstance(admission.decision, Refused):
        return admission.decision
    assert admission.origin is not None  # a file without origin is not admitted
    job = Job(
        name,
        admission.decision.archive,
        admission.origin.node_id,
        admission.decision.certificates,
    )
    setup = Setup(directory, criteria.max_size, criteria.skip_event_types)
    return examine_one(setup, job).result


def spool_name(name: str) -> str:
    """Return the name under which the daemon would receive a file."""
    if not name.endswith(SIGNED):
        return name
    renamed = f"{name.removesuffix(SIGNED)}.log"
    return name if isinstance(parse_name(renamed), Refused) else renamed


def explain(verdict: Refused | Retry | Gone) -> str:
    """Return why a file is not accepted, in the words of the daemon."""
    match verdict:
        case Refused(reason, detail):
            return f"{reason}: {detail}"
        case Retry(detail):
            return detail
        case Gone():
            return "cannot be read: No such file or directory"
