"""The shipped configuration of a cluster, with the ports and paths of this machine.

`conf/ha` links to the files next to this module, so that what the demo and the tests start is what
an administrator copies.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relayd.commands.demo.processes.ports import LOOPBACK

MEMBERS: Final = ("db1", "db2", "db3")

_HERE: Final = Path(__file__).parent
#: Addresses in the shipped files, by member.
_ADDRESSES: Final = {"db1": "192.0.2.11", "db2": "192.0.2.12", "db3": "192.0.2.13"}
#: Ends each line that differs between the machines.
_OWN: Final = "# this machine"
_TIMES: Final = {"ttl: 30": "ttl: 20", "loop_wait: 10": "loop_wait: 1"}
_WAITS: Final = {"retry_timeout: 10": "retry_timeout: 3"}
_ASYNCHRONOUS: Final = {
    "synchronous_mode: true": "synchronous_mode: false",
    "synchronous_mode_strict: true": "synchronous_mode_strict: false",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of one member on 127.0.0.1.

    Attributes:
        postgres: of PostgreSQL.
        api: of Patroni's REST API.
        client: of etcd, for Patroni.
        peer: of etcd, for the other members.
    """

    postgres: int
    api: int
    client: int
    peer: int

    def addresses(self, member: str) -> dict[str, str]:
        """Return what replaces the shipped addresses of a member."""
        own = _ADDRESSES[member]
        shipped = {5432: self.postgres, 8008: self.api, 2379: self.client, 2380: self.peer}
        return {f"{own}:{old}": f"{LOOPBACK}:{new}" for old, new in shipped.items()}


def fill(text: str, replacements: Mapping[str, str]) -> str:
    """Replace words of a shipped file, all at once.

    Raises:
        ValueError: the file does not contain one of them.
    """
    missing = [old for old in replacements if old not in text]
    if missing:
        raise ValueError(f"the shipped file does not contain {missing[0]!r}")
    longest_first = sorted(replacements, key=len, reverse=True)
    words = re.compile("|".join(map(re.escape, longest_first)))
    return words.sub(lambda found: replacements[found[0]], text)


def read(name: str) -> str:
    """Return a shipped file."""
    return (_HERE / name).read_text(encoding="utf-8")


def etcd_environment(member: str, ports: Mapping[str, Ports], data: Path) -> dict[str, str]:
    """Return the environment of an etcd member."""
    text = read("etcd.env")
    own, rest = text.split("# The same on all machines:")
    mine = _ADDRESSES[member]
    own = own.replace(_ADDRESSES["db1"], mine).replace('"db1"', f'"{member}"')
    text = fill(own, _among(own, ports[member].addresses(member))) + rest
    text = text.replace("/var/lib/etcd/rudder", str(data))
    for name, its in ports.items():
        text = text.replace(f"{_ADDRESSES[name]}:2380", f"{LOOPBACK}:{its.peer}")
    return dict(re.findall(r'^(ETCD_\w+)="(.*)"$', text, re.MULTILINE))


def patroni_file(
    member: str, ports: Mapping[str, Ports], paths: Mapping[str, str], *, synchronous: bool
) -> str:
    """Return Patroni's configuration of a member.

    Differs from the shipped file in addresses, paths and passwords, in shorter times, in the
    watchdog, which this machine need not have, and in the superuser's local login.

    Args:
        member: its name.
        ports: those of all members.
        paths: what replaces shipped paths and passwords.
        synchronous: whether commits wait for a standby.
    """
    lines = [_adopt(line, member) for line in read("patroni.yml").splitlines(keepends=True)]
    text = "".join(lines)
    replacements = {
        **{k: v for name, its in ports.items() for k, v in its.addresses(name).items()},
        **{f"{address}/32": f"{LOOPBACK}/32" for address in _ADDRESSES.values()},
        "192.0.2.0/24": f"{LOOPBACK}/32",
        "local all postgres peer": "local all postgres trust",
        "mode: required": 'mode: "off"',
        **_TIMES,
        **_WAITS,
        **paths,
        **({} if synchronous else _ASYNCHRONOUS),
    }
    return fill(text, _among(text, replacements))


def haproxy_file(ports: Mapping[str, Ports], port: int) -> str:
    """Return HAProxy's configuration, listening on `port`."""
    text = read("haproxy.cfg")
    text = fill(
        text, {"    user haproxy\n    group haproxy\n": "", "127.0.0.1:5000": f"{LOOPBACK}:{port}"}
    )
    for name, its in ports.items():
        old = f"{_ADDRESSES[name]}:5432 check port 8008"
        text = fill(text, {old: f"{LOOPBACK}:{its.postgres} check port {its.api}"})
    return text


def _adopt(line: str, member: str) -> str:
    """Return a line of the first member's file as another member has it."""
    if not line.rstrip().endswith(_OWN):
        return line
    return line.replace(_ADDRESSES["db1"], _ADDRESSES[member]).replace("db1", member)


def _among(text: str, replacements: Mapping[str, str]) -> dict[str, str]:
    """Return the replacements of addresses that a file has; all others must be in it."""
    return {
        old: new
        for old, new in replacements.items()
        if old in text or not old.startswith(tuple(_ADDRESSES.values()))
    }
