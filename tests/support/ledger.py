"""A ledger of uploads: what was sent, and where all of it must be in the end."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from relayd.spool.failed.reasons import SUFFIX
from tests.support.daemon import Site
from tests.support.postgres import Database
from tests.support.signing import SigningNode, make_key_and_cert, sign_runlog

#: Rows and execution rows by node and START, in one query.
_ROWS: Final = (
    "SELECT nodeid, extract(epoch FROM executiontimestamp)::bigint, count(*),"
    " count(DISTINCT (ruleid, component, msg)) FROM ruddersysevents GROUP BY 1, 2"
)
_EXECUTIONS: Final = (
    "SELECT nodeid, extract(epoch FROM date)::bigint, insertionid FROM reportsexecution"
)
_FIRST: Final = (
    "SELECT nodeid, extract(epoch FROM executiontimestamp)::bigint, min(id)"
    " FROM ruddersysevents GROUP BY 1, 2"
)

SEED: Final = 20_260_301

Run = tuple[str, int]


def fleet(nodes: Iterable[str] = ("node0", "node1", "node2")) -> dict[str, SigningNode]:
    """Return nodes that can sign, by node id."""
    return {name: make_key_and_cert(name) for name in nodes}


@dataclass(frozen=True)
class Sent:
    """A good run log that was uploaded.

    Attributes:
        name: its file name.
        data: its bytes, to upload them again.
        rows: how many reports it holds.
        complete: whether it gets a row in `reportsexecution`.
    """

    name: str
    data: bytes
    rows: int
    complete: bool


class Ledger:
    """Uploads run logs, each of its own node and START, and records them.

    Attributes:
        good: what must be in the database, by node and START (Unix seconds).
        bad: names of what must be in `failed`.

    Args:
        site: where.
        seed: of all choices.
        nodes: that send; those of the site unless given.
    """

    def __init__(self, site: Site, seed: int = SEED, nodes: Iterable[str] = ()) -> None:
        self.site = site
        self._nodes = sorted(nodes or site.nodes)
        self.good: dict[Run, Sent] = {}
        self.bad: set[str] = set()
        self._random = random.Random(seed)
        self._number = 0

    def send(self, reports: int = 6) -> str:
        """Upload a complete run log; return its name."""
        return self._send(reports, partial=False)

    def send_any(self) -> str:
        """Upload a run log of a random kind: mostly good, else one that must be refused."""
        kind = self._random.choice(("whole",) * 8 + ("partial", "again", "forged", "short"))
        if kind == "forged":
            return self.send_forged()
        if kind == "short":
            return self.send_short()
        if kind == "again" and self.good:
            return self._send_again()
        return self._send(self._random.randrange(2, 12), partial=kind == "partial")

    def _send(self, reports: int, *, partial: bool) -> str:
        node_id, number = self._next()
        data = self.site.run_log(node_id, number, reports, partial=partial)
        name = self.site.name(node_id, number)
        run = node_id, int(self.site.start(number).timestamp())
        self.good[run] = Sent(name, data, reports, complete=not partial)
        self.site.upload(name, data)
        return name

    def _send_again(self) -> str:
        sent = self._random.choice(list(self.good.values()))
        self.site.upload(sent.name, sent.data)
        return sent.name

    def send_forged(self) -> str:
        """Upload a run log that another node signed; return its name."""
        node_id, number = self._next()
        other = next(node for node in self.site.nodes.values() if node.node_id != node_id)
        text = self.site.text(node_id, number)
        return self._send_bad(self.site.name(node_id, number), sign_runlog(text, other))

    def send_short(self) -> str:
        """Upload a run log whose end is missing; return its name."""
        node_id, number = self._next()
        data = self.site.run_log(node_id, number)
        return self._send_bad(self.site.name(node_id, number), data[: len(data) // 2])

    def _send_bad(self, name: str, data: bytes) -> str:
        self.bad.add(name)
        self.site.upload(name, data)
        return name

    def next_bad_name(self) -> str:
        """Return the name of a file that must end in `failed`, for the caller to write."""
        name = self.site.name(*self._next())
        self.bad.add(name)
        return name

    def _next(self) -> tuple[str, int]:
        self._number += 1
        return self._random.choice(self._nodes), self._number

    async def balance(self, database: Database) -> None:
        """Assert that everything is where it must be, once, and that the spool is empty."""
        assert self.site.waiting() == []
        self.check_failed()
        await self.check_rows(database)

    def check_failed(self) -> None:
        """Assert that `failed` holds what was refused, each with its reason, and nothing else."""
        names = [path.name for path in self.site.failed.iterdir()]
        names = [name for name in names if not name.startswith(".")]
        files = sorted(name for name in names if not name.endswith(SUFFIX))
        assert files == sorted(self.bad)
        assert sorted(names) == sorted([*files, *(name + SUFFIX for name in files)])

    async def check_rows(self, database: Database) -> None:
        """Assert that each run log is in the database whole and once, executions included."""
        rows = await database.fetch(_ROWS)
        found = {(node, int(start)): (int(all_), int(own)) for node, start, all_, own in rows}
        differences = _differences(found, {run: (s.rows, s.rows) for run, s in self.good.items()})
        assert not differences, differences[:5]
        executions = await database.fetch(_EXECUTIONS)
        counts = Counter((node, int(start)) for node, start, _ in executions)
        expected = Counter(run for run, sent in self.good.items() if sent.complete)
        assert not _differences(counts, expected)
        first = {(node, int(start)): id_ for node, start, id_ in await database.fetch(_FIRST)}
        assert all(first[node, int(start)] == id_ for node, start, id_ in executions)

    async def keep_sending(self, pause: float = 0.02) -> None:
        """Upload until cancelled, some files at once, then none for a moment."""
        while True:
            for _ in range(self._random.randrange(1, 4)):
                self.send_any()
            await trio.sleep(self._random.uniform(0.0, 2 * pause))


def _differences(found: Mapping[Run, object], expected: Mapping[Run, object]) -> list[str]:
    """Return what is missing, unexpected or of another count."""
    return [
        f"{run}: {found.get(run)} instead of {expected.get(run)}"
        for run in sorted({*found, *expected})
        if found.get(run) != expected.get(run)
    ]
