"""The permissions of the service user on the paths of a configuration.

One child process permanently becomes that user and asks the system. Judging modes and access
lists from outside would be a guess.
"""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from relayd.commands.check.account import Account
from relayd.commands.check.model import Access, Finding, error, skipped
from relayd.commands.check.service_user import probe
from relayd.commands.check.service_user.child import run
from relayd.config.database_url import DatabaseUrl
from relayd.config.logging_conf import LOGGING_FILE
from relayd.config.main_conf import MAIN_FILE, Settings
from relayd.pipelines.pausing import FILE as PAUSES
from relayd.spool.layout import Spool, inventory_spool, run_log_spool
from relayd.system import utf8
from relayd.telemetry.nodes.saved import NAME as RECORDS

if TYPE_CHECKING:
    from subprocess import CompletedProcess

#: Seconds for all answers; a file system that hangs never answers.
DEADLINE_S: Final = 5.0

#: Extensions of the files to count, by path.
Questions = dict[Path, tuple[str, ...]]


def questions(directory: Path, settings: Settings) -> Questions:
    """Return the paths that the daemon uses with these settings."""
    general, processing = settings.general, settings.processing
    paths: Questions = {directory / name: () for name in (MAIN_FILE, LOGGING_FILE)}
    paths |= {general.nodes_list_file: (), general.nodes_certs_file: (), general.node_id_file: ()}
    if general.listen.path:
        paths[Path(general.listen.path).parent] = ()
    if general.control_socket is not None:
        paths[general.control_socket.parent] = ()
    state = general.state_directory
    paths |= {state: (), state / PAUSES: (), state / RECORDS: ()}
    run_logs = run_log_spool(processing.reporting.directory, keeps=settings.keeps_run_logs)
    paths |= _of_spool(run_logs)
    paths |= _of_spool(inventory_spool(processing.inventory.directory))
    paths |= {settings.shared_files.path: (), settings.shared_folder.path: ()}
    command = Path(settings.remote_run.command)
    paths |= {settings.output.upstream.server_certificate_file: (), command: ()}
    paths |= dict.fromkeys(DatabaseUrl.parse(settings.output.database.url).files, ())
    server = settings.server
    if server.listen:
        paths |= {server.certificate_file: (), server.key_file: ()}
        paths |= {server.passwords_file: (), server.initial_passwords_file: ()}
        paths |= {server.networks_file: (), server.policy_servers_file: ()}
    for path in (general.ca_path, settings.remote_run.helper):
        if path is not None:
            paths[path] = ()
    return paths


def _of_spool(spool: Spool) -> Questions:
    counted = tuple(sorted(f".{extension}" for extension in spool.extensions))
    return {**dict.fromkeys(spool.in_use, ()), **dict.fromkeys(spool.watched, counted)}


async def ask(
    account: Account, asked: Questions
) -> tuple[Mapping[Path, Access] | None, list[Finding]]:
    """Find the permissions of a user.

    Returns:
        The permissions, None when they are unknown, and the findings that say why.
    """
    if not account.can_become:
        what = f"only root and {account.name} can check the permissions of {account.name}"
        fix = "run this check as root, or give another user with --user"
        return None, [skipped("files.unknown", "files and directories", what, fix)]
    with trio.move_on_after(DEADLINE_S):
        return await _ask_child(account, asked)
    what = f"a file system did not answer within {DEADLINE_S:.0f} s"
    fix = "find the network file system that hangs: df, mount"
    return None, [error("files.hang", "files and directories", what, fix)]


async def _ask_child(
    account: Account, asked: Questions
) -> tuple[Mapping[Path, Access] | None, list[Finding]]:
    try:
        done = await _run_child(account, asked)
    except OSError as failure:
        return None, [_not_started(account, failure.strerror or str(failure))]
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return None, [_not_started(account, last or f"exit code {done.returncode}")]
    answers = msgspec.json.decode(done.stdout, type=list[Access])
    return dict(zip(asked, answers, strict=True)), []


async def _run_child(account: Account, asked: Questions) -> "CompletedProcess[bytes]":
    become = None if account.is_current else [account.uid, account.gid, account.groups]
    items = [[str(path.absolute()), extensions] for path, extensions in asked.items()]
    # Started as the current user: the other may not be able to read the interpreter's files.
    command = [sys.executable, *utf8.OPTIONS, "-I", "-S", "-c", inspect.getsource(probe)]
    return await run(command, json.dumps([become, items]).encode())


def _not_started(account: Account, why: str) -> Finding:
    what = f"the permissions of user {account.name} cannot be checked: {why}"
    fix = "check whether this machine lets root start processes and change their user"
    return skipped("files.unknown", "files and directories", what, fix)
