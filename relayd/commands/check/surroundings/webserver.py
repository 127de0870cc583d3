"""The web server in front: may it put uploads into the spool?"""

from pathlib import Path

from relayd.commands.check.account import Account, listed_groups
from relayd.commands.check.model import Access, Finding, Site, error, skipped
from relayd.commands.check.service_user.access import ask
from relayd.commands.check.service_user.foreign import elsewhere, is_foreign
from relayd.commands.check.service_user.permissions import enter_fix, shared_group
from relayd.commands.check.surroundings.processes import web_servers
from relayd.system.threads import in_thread


async def check(site: Site) -> list[Finding]:
    """Check with the permissions of each running web server; one that may upload is enough."""
    if site.settings.server.listen:
        return []  # relayd takes uploads itself
    accounts = [site.web] if site.web else await in_thread(web_servers, abandon_on_cancel=True)
    first: list[Finding] = []
    for account in accounts:
        if account.uid == site.account.uid:
            return []  # what it may not do is reported for relayd
        found = await _check_account(site, account)
        if not found:
            return []
        first = first or found
    return first


async def _check_account(site: Site, account: Account) -> list[Finding]:
    watched = [path for spool in site.spools for path in spool.watched]
    if not account.can_become:
        what = f"only root and {account.name} can check what the web server may write"
        return [skipped("webserver.unknown", account.name, what, "run this check as root")]
    answers, unknown = await ask(account, dict.fromkeys(watched, ()))
    if answers is None:
        return unknown
    found: list[Finding] = []
    for path in watched:
        found += _judge(site, account, path, answers[path])
    return found


def _judge(site: Site, account: Account, path: Path, access: Access) -> list[Finding]:
    code, who = "webserver.permissions", f"the web server (user {account.name})"
    if access.blocked is not None:
        what = f"{who} may not enter {access.blocked}, so uploads fail"
        entered = enter_fix(site, account, path, Path(access.blocked))
        fix = f"{entered}, then restart the web server"
        return [error(code, path, what, fix)]
    # A missing directory, or something else in its place, is reported for relayd itself.
    if access.kind != "directory" or (access.write and access.execute):
        return []
    what = f"{who} may not write to it, so uploads fail"
    return [error(code, path, what, _fix(site, account, path))]


def _fix(site: Site, account: Account, path: Path) -> str:
    """Return how the web server gets access through the group of the directory."""
    if is_foreign(path):
        return elsewhere(site, path)
    group, change = shared_group(path, site.account.group)
    restart = "restart the web server"
    if group not in listed_groups(account.name):
        change = f"{change}usermod -aG {group} {account.name}, then "
    elif not change:
        return f"{restart}, which was started before its user got the group {group}"
    return f"{change}{restart}"
