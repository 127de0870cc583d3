"""Files that nodes share, through a root server, a relay and a relay below it."""

import os
from pathlib import Path

import pytest
import trio

from relayd.shared.metadata import parse_metadata
from tests.support.front import dial_front
from tests.support.http import Answer
from tests.support.postgres import Database
from tests.support.shared import joined, lines, sha512, upload
from tests.support.tree import Member, Tree, make_tree, open_tree

SHARED_FILES = "/rudder/relay-api/shared-files"


@pytest.fixture
def tree(tmp_path: Path, database: Database) -> Tree:
    """Return the three members, written."""
    return make_tree(tmp_path, database.rudder)


async def ask(member: Member, method: str, path: str, body: bytes = b"") -> Answer:
    """Return a node's request through the web front of its policy server."""
    async with dial_front(member.front()) as client:
        return await client.ask(method, f"{SHARED_FILES}/{path}", body)


def stored(tree: Tree, target: str, source: str, file: str) -> dict[str, bytes]:
    """Content of a shared file by the member that keeps it."""
    found = {}
    for member in tree.members:
        path = member.shared_files / target / "files" / source / file
        if path.exists():
            found[member.me] = path.read_bytes()
            text = path.with_name(f"{file}.metadata").read_bytes()
            assert parse_metadata(text).expires is not None
    return found


@pytest.mark.history(44)
async def test_a_file_goes_up_until_its_target_is_below(tree: Tree) -> None:
    """A file is kept by the first policy server on its way up that its target is below.

    Its hash is asked for on the same way, from wherever it was sent.
    """
    ways = [
        ("sub", "node0", "node2", "root"),
        ("sub", "node1", "node2", "relay"),
        ("sub", "node2", "node2", "sub"),
        ("relay", "node0", "node1", "root"),
        ("relay", "node2", "node1", "relay"),
        ("root", "node2", "node0", "root"),
    ]
    async with open_tree(tree):
        for here, target, source, there in ways:
            member = next(member for member in tree.members if member.me == here)
            content = f"from {source} to {target}\n\nby {here}".encode()
            path = f"{target}/{source}/sent.by.{here}"
            data = upload(content, tree.nodes[source])
            assert (await ask(member, "HEAD", f"{path}?hash={sha512(content)}")).status == 404
            assert (await ask(member, "PUT", f"{path}?ttl=1%20day", data)).status == 200
            assert stored(tree, target, source, f"sent.by.{here}") == {there: content}
            assert (await ask(member, "HEAD", f"{path}?hash={sha512(content)}")).status == 200
            assert (await ask(member, "HEAD", f"{path}?hash={sha512(b'other')}")).status == 404


async def test_refusals_come_back_down(tree: Tree) -> None:
    """What the policy server far above says of a file is what its sender hears."""
    content, sender = b"content", tree.nodes["node2"]
    good = upload(content, sender)
    lying = lines(content, sender) | {"hash_value": sha512(b"another content")}
    cases = [
        ("node0/node2/x?ttl=1%20day", good[:-1] + b"T", 500),
        ("node0/node2/x?ttl=1%20day", joined(lying) + b"\n" + content, 400),
        ("node0/node1/x?ttl=1%20day", good, 404),
        ("node0/stranger/x?ttl=1%20day", good, 404),
        ("stranger/node2/x?ttl=1%20day", good, 500),
        ("node0/node2/x?ttl=never", good, 400),
        ("node0/node2/x.metadata?ttl=1%20day", good, 400),
        ("node0/../node2?ttl=1%20day", good, 403),
    ]
    async with open_tree(tree):
        for path, data, status in cases:
            assert (await ask(tree.sub, "PUT", path, data)).status == status, path
    for member in tree.members:
        assert [path for path in member.shared_files.rglob("*") if path.is_file()] == []


async def test_large_files_at_once(tree: Tree) -> None:
    """Several large files that pass both relays at the same time arrive whole."""
    contents = {f"file{number}": os.urandom(5_000_000 + number) for number in range(4)}

    async def send(file: str, content: bytes) -> None:
        data = upload(content, tree.nodes["node2"])
        assert (await ask(tree.sub, "PUT", f"node0/node2/{file}?ttl=3600", data)).status == 200

    async with open_tree(tree), trio.open_nursery() as nursery:
        for file, content in contents.items():
            nursery.start_soon(send, file, content)
    for file, content in contents.items():
        assert stored(tree, "node0", "node2", file) == {"root": content}
