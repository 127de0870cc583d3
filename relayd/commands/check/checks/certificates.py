"""The certificates of the nodes: do they exist, match the nodes list, and are they still valid?"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relayd.commands.check.checks.nodes import (
    REGENERATE,
    enumerate_some,
    every,
    is_below,
    load,
)
from relayd.commands.check.model import Finding, Level, Site, error, warning
from relayd.commands.check.service_user.permissions import check_file
from relayd.commands.check.settings.places import judge_openness
from relayd.errors import NodesError
from relayd.fleet.formats import in_small_steps, pem_blocks
from relayd.fleet.nodes import Nodes
from relayd.runlog.signature.certificates import read_certificate
from relayd.runlog.signature.keys import load_public_key
from relayd.system.printable import printable
from relayd.system.threads import in_thread

#: Seconds; certificates that expire sooner are reported.
SOON_S: Final = 30 * 86_400.0

_RENEW: Final = "renew it on the node, then send an inventory and regenerate the policies"


@dataclass
class Found:
    """The contents of the certificates file.

    Attributes:
        ends: end of validity of each certificate, unix time in seconds, by node.
        keys: DER SubjectPublicKeyInfo of each, by node.
        broken: line and fault of each unusable certificate.
        nameless: lines of certificates without a node id.
    """

    ends: dict[str, list[int]] = field(default_factory=dict)
    keys: dict[str, list[bytes]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)


async def check(site: Site) -> list[Finding] | None:
    """Check the certificates file against the nodes list; None without a nodes list."""
    return await in_thread(_check, site, abandon_on_cancel=True)


def _check(site: Site) -> list[Finding] | None:
    path = site.settings.general.nodes_certs_file
    found = check_file(site, path, "certificates.permissions")
    if found:
        return found
    try:
        nodes, _ = load(site)
    except NodesError:
        return None  # the check of the list reports it
    found = judge_openness(site, "certificates.writable", path, "whose signatures are accepted")
    needed = _needed(site, nodes)
    if not path.exists():
        what = f"does not exist, and {enumerate_some(needed, 'node')} need a certificate in it"
        return [*found, error("certificates.missing", path, what, REGENERATE)] if needed else found
    try:
        read = _read(path)
    except ValueError as failure:
        return [*found, error("certificates.broken", path, str(failure), REGENERATE)]
    return found + _judge_file(path, read, nodes) + _judge_nodes(path, read, nodes, needed)


def _needed(site: Site, nodes: Nodes) -> list[str]:
    """Return the nodes whose certificates verify run logs or identify a sub-relay."""
    if site.examines:
        return [node.id for node in every(nodes)]
    pinned = site.settings.general.peer_authentication == "cert_pinning"
    if not pinned or not site.settings.remote_run.enabled:
        return []
    servers = {node.policy_server for node in every(nodes)} - {site.my_id}
    return [node.id for node in every(nodes) if node.id in servers and is_below(nodes, node.id)]


def _read(path: Path) -> Found:
    found = Found()
    with path.open("rb") as file:
        for line, block in in_small_steps(pem_blocks(file)):
            if isinstance(block, str):
                found.broken.append(f"line {line}: {block}")
                continue
            try:
                node_id, certificate, validity = read_certificate(block)
                load_public_key(certificate.spki)
            except ValueError as failure:
                found.broken.append(f"line {line}: {failure}")
                continue
            if node_id is None:
                found.nameless.append(f"line {line}")
            else:
                found.ends.setdefault(node_id, []).append(validity.end)
                found.keys.setdefault(node_id, []).append(certificate.spki)
    return found


def _judge_file(path: Path, read: Found, nodes: Nodes) -> list[Finding]:
    found = [warning("certificates.unusable", path, text, REGENERATE) for text in read.broken[:10]]
    if read.nameless:
        what = f"no node id (subject UID) in {enumerate_some(read.nameless, 'certificate')}"
        found.append(warning("certificates.nameless", path, what, REGENERATE))
    strangers = [printable(node_id, 80) for node_id in read.ends if nodes.get(node_id) is None]
    if strangers:
        what = f"certificates of unlisted nodes, {enumerate_some(strangers, 'node')}"
        found.append(warning("certificates.stranger", path, what, REGENERATE))
    return found


def _judge_nodes(path: Path, read: Found, nodes: Nodes, needed: list[str]) -> list[Finding]:
    without = [node_id for node_id in needed if node_id not in read.ends]
    found: list[Finding] = []
    if without:
        level = Level.ERROR if len(without) == len(needed) else Level.WARNING
        what = f"no certificate of {enumerate_some(without, 'node')}"
        fix = "send an inventory from the node, accept it and regenerate the policies"
        found.append(Finding(level, "certificates.absent", str(path), what, fix))
    found += _judge_ends(path, read, needed)
    wrong = [
        node.id
        for node in every(nodes)
        if node.key_hash is not None
        and node.id in read.keys
        and not any(node.key_hash.matches(key) for key in read.keys[node.id])
    ]
    if wrong:
        what = f"the key does not match key-hash in the nodes list, {enumerate_some(wrong, 'node')}"
        fix = "send an inventory from the node; if nobody changed its key, investigate"
        found.append(warning("certificates.key_hash", path, what, fix))
    return found


def _judge_ends(path: Path, read: Found, needed: list[str]) -> list[Finding]:
    """Report the dates; relayd does not enforce them, it trusts expired certificates."""
    now = time.time()
    last = {node_id: max(read.ends[node_id]) for node_id in needed if node_id in read.ends}
    expired = [node_id for node_id, end in last.items() if end < now]
    ending = [node_id for node_id, end in last.items() if now <= end < now + SOON_S]
    found: list[Finding] = []
    if expired:
        what = f"expired but still trusted, {enumerate_some(expired, 'node')}"
        found.append(warning("certificates.expired", path, what, _RENEW))
    if ending:
        what = f"expires within 30 days, {enumerate_some(ending, 'node')}"
        found.append(warning("certificates.expiring", path, what, _RENEW))
    return found
