"""Operators at once, and kills of relayd and of their commands: no file is lost or doubled."""

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio

from relayd.spool.failed.reasons import SUFFIX, read_reason
from tests.support.daemon import Site, eventually, open_daemon
from tests.support.ledger import SEED, Ledger
from tests.support.postgres import Database
from tests.support.stored import stored_executions

#: Files of this node may be dropped by any operator; of the others, only named ones.
DROPPED: Final = "node2"
OPERATORS: Final = 3
ROUND_S: Final = 12.0


class Campaign:
    """Uploads, operators and kills.

    Attributes:
        good: the names of run logs that must be stored, each with its node and number.
        may_go: names that an operator was about to drop.
        done: how often each command ended by itself, and "killed".
    """

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.ledger = Ledger(site, seed)
        self.good: dict[str, tuple[str, int]] = {}
        self.may_go: set[str] = set()
        self.done: Counter[str] = Counter()
        self.random = random.Random(seed)

    async def upload(self) -> None:
        """Upload run logs, some of which are refused, until cancelled."""
        while True:
            for _ in range(self.random.randrange(1, 4)):
                send = self.random.choice([self._good] * 6 + [self.ledger.send_forged])
                send()
            await trio.sleep(self.random.uniform(0.0, 0.2))

    def _good(self) -> None:
        before = set(self.ledger.good)
        name = self.ledger.send()
        ((node, date),) = self.ledger.good.keys() - before
        self.good[name] = node, round((date - self.site.start().timestamp()) / 60)

    async def keep_running(self) -> None:
        """Start relayd and kill it, again and again, until cancelled."""
        while True:
            async with open_daemon(self.site, ready=None) as daemon:
                await trio.sleep(self.random.uniform(0.2, 4.0))
                ending = self.random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
                with suppress(ProcessLookupError):
                    await daemon.stop(ending)

    async def operate(self) -> None:
        """Give commands, one after the other, until cancelled; some are killed."""
        while True:
            kill = self.random.uniform(0.2, 1.5) if self.random.random() < 0.35 else None
            await self.command(*self._words(), kill=kill)

    async def command(self, *words: str, kill: float | None = None) -> int | None:
        """Run a command; kill it after so many seconds. Return its exit code, None if killed."""
        command = [sys.executable, "-m", "relayd", *words, "-c", str(self.site.conf)]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with trio.move_on_after(60.0 if kill is None else kill):
                await process.wait()
                self.done[" ".join(words[:2])] += process.returncode == 0
                return process.returncode
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        self.done["killed"] += 1
        return None

    def _words(self) -> tuple[str, ...]:
        node = self.random.choice(sorted(self.site.nodes))
        names = self._some()
        return self.random.choice(
            [
                ("queue", "hold", "--node", node),
                ("queue", "hold", "--node", node, "--older", "1min"),
                ("queue", "hold", *names),
                ("queue", "release", "--node", node),
                ("queue", "release", "--all"),
                ("queue", "release", *names),
                ("queue", "retry", "--all"),
                ("queue", "drop", "--node", DROPPED, "--yes"),
                ("queue", "drop", "--yes", *self._dropping(names)),
                ("failed", "replay", "--all"),
                ("failed", "drop", "--yes", *self._dropping(self._some(self.site.failed))),
                ("pause", "--for", "1s"),
                ("resume",),
            ]
        )

    def _some(self, *places: Path) -> Sequence[str]:
        """Return names that wait, or were set aside or refused, at this moment."""
        on_hold = self.site.root / "reports" / "on-hold"
        found = {"no such file.log"}
        for place in places or (self.site.incoming, *on_hold.glob("incoming*")):
            with suppress(FileNotFoundError):
                found |= {path.name for path in place.glob("*.log")}
        return self.random.sample(sorted(found), min(3, len(found)))

    def _dropping(self, names: Sequence[str]) -> Sequence[str]:
        self.may_go.update(names)
        return names

    async def run(self, seconds: float) -> None:
        """Let all of it happen at once for a while, and then put things right."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.upload)
            nursery.start_soon(self.keep_running)
            for _ in range(OPERATORS):
                nursery.start_soon(self.operate)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
        async with open_daemon(self.site) as daemon:
            assert await self.command("resume") == 0
            held = self.site.root / "reports" / "on-hold"
            # A file of a name that waits stays aside until that one is stored.
            with trio.fail_after(120):
                while any(held.glob("*/*.log")) or self.site.waiting():
                    await self.command("queue", "release", "--all")
            await daemon.settled()
            await eventually(lambda: not self.site.waiting())
            assert await daemon.stop() == 0

    def check(self, database: Database) -> None:
        """Assert that every file is in one place, or was dropped by somebody who asked for it."""
        failed = Counter(self._refused())
        assert failed.keys() <= self.ledger.bad
        assert set(failed.values()) <= {1}
        stored = stored_executions(database.query)
        assert set(stored.values()) <= {1}
        names = {run: name for name, run in self.good.items()}
        present = {names[run] for run in stored} | set(failed)
        sent = self.good.keys() | self.ledger.bad
        lost = {
            name for name in sent - present - self.may_go if not name.endswith(f"@{DROPPED}.log")
        }
        assert not lost
        assert present <= sent

    def _refused(self) -> list[str]:
        names = []
        for path in self.site.failed.iterdir():
            if path.name.endswith(SUFFIX) or path.name.startswith("."):
                continue
            record = read_reason(path.with_name(path.name + SUFFIX))
            names.append(path.name if record is None else record.name)
        return names


@pytest.mark.torture
@pytest.mark.fault("L6", "S1")
@pytest.mark.parametrize("rounds", [3, 40])
async def test_operators_at_once_and_kills_lose_and_double_nothing(
    site: Site, database: Database, rounds: int
) -> None:
    """After each round, every file is stored once, refused once, or was dropped by name or node."""
    campaign = Campaign(site, SEED + rounds)
    for number in range(rounds):
        await campaign.run(ROUND_S)
        campaign.check(database)
        print(number, len(campaign.good), len(campaign.ledger.bad), dict(campaign.done))
    assert campaign.done["killed"] >= rounds
    for command in ("queue hold", "queue release", "queue drop", "failed replay", "failed drop"):
        assert campaign.done[command]
