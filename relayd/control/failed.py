"""Refused files at the control socket: list them, move them back, remove them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import trio
from quart import Blueprint

from relayd.control.audit import audit
from relayd.control.requests import answering, encoded, read_body
from relayd.errors import RelaydError
from relayd.fleet.finding import find_nodes
from relayd.fleet.nodes import Nodes
from relayd.spool.failed.listing import Asked, list_refusals
from relayd.spool.failed.refusals import Group, Refusal, grouped, read_refusals
from relayd.spool.failed.returning import SUCCESS, Done, Returned, bring_back, drop
from relayd.spool.layout import Spool
from relayd.system.printable import shown
from relayd.system.threads import in_thread

#: Seconds that an operation may take.
OPERATION_S: Final = 120.0

Act = Callable[[Sequence[Refusal]], Iterable[Done]]


class FilesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refused files that are meant.

    Attributes:
        files: their paths, as they are listed.
    """

    files: tuple[str, ...]


def failed_blueprint(spools: Sequence[Spool], nodes: Callable[[], Nodes]) -> Blueprint:
    """Return the routes below `/failed`.

    Args:
        spools: of the installation.
        nodes: returns the nodes list in use.
    """
    routes = Blueprint("failed", __name__)

    @routes.get("/failed", endpoint="listFailed")
    @answering("listFailed")
    async def groups() -> list[Group]:
        return await in_thread(lambda: grouped(read_refusals(spools)))

    @routes.post("/failed/list", endpoint="listFailedFiles")
    @answering("listFailedFiles")
    async def files() -> msgspec.Raw:
        look = partial(_files, spools, await read_body(Asked), nodes())
        return await in_thread(look, abandon_on_cancel=True)

    @routes.post("/failed/replay", endpoint="replayFailed")
    @answering("replayFailed")
    async def replay() -> list[Returned]:
        return await _act(spools, "replay", lambda refusals: map(bring_back, refusals))

    @routes.post("/failed/drop", endpoint="dropFailed")
    @answering("dropFailed")
    async def remove() -> list[Returned]:
        return await _act(spools, "drop", drop)

    return routes


def _files(spools: Sequence[Spool], asked: Asked, nodes: Nodes) -> msgspec.Raw:
    """Return the files that are meant, as JSON: there may be some hundred thousand."""
    hostnames = nodes.hostnames()
    find = partial(find_nodes, hostnames=hostnames)
    return encoded(list_refusals(spools, asked, find, hostnames))


async def _act(
    spools: Sequence[Spool], action: Literal["replay", "drop"], act: Act
) -> list[Returned]:
    asked = await read_body(FilesRequest)
    # A caller who disconnects does not end it: what was begun is finished, and logged.
    with trio.move_on_after(OPERATION_S, shield=True):
        results = await in_thread(partial(_work, spools, asked, act))
        count = sum(result.outcome in SUCCESS for result in results)
        await audit(f"failed {action}", count, asked=len(asked.files))
        return results
    raise RelaydError(f"not done within {OPERATION_S:g} s")


def _work(spools: Sequence[Spool], asked: FilesRequest, act: Act) -> list[Returned]:
    """Move the files that are refused ones; a path to anything else is of no effect."""
    wanted = frozenset(asked.files)
    found_files = read_refusals(spools, lambda path: shown(str(path)) in wanted)
    refusals = {shown(str(refusal.path)): refusal for refusal in found_files}
    found = [refusals[file] for file in asked.files if file in refusals]
    results = [
        Returned(shown(str(done.refusal.path)), done.outcome, done.detail) for done in act(found)
    ]
    return results + [Returned(file, "gone") for file in asked.files if file not in refusals]
