"""strace(1) on a running process: which system calls it makes, and a kill right before one."""

import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

PATIENCE_S: Final = 30.0


class Point(NamedTuple):
    """A moment to kill at: before the `number`th such call that one of some threads makes."""

    call: str
    number: int

    @property
    def kill(self) -> tuple[str, ...]:
        """Options of strace."""
        return inject(self.call, f"signal=KILL:when={self.number}")


def inject(calls: str, what: str) -> tuple[str, ...]:
    """Options of strace that do something to calls; nothing is written down."""
    return "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:{what}"


def threads(pid: int) -> list[int]:
    """Ids of a process's threads, the main one first."""
    return sorted(int(tid) for tid in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208


def children(pid: int) -> list[int]:
    """Ids of the processes that a process has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(c) for task in tasks for c in (task / "children").read_text().split())


@asynccontextmanager
async def open_strace(tids: Iterable[int], *options: str | Path) -> AsyncIterator[trio.Process]:
    """Attaches to threads as long as the block lasts, or to whole processes with the option -f."""
    chosen = [option for tid in tids for option in ("-p", str(tid))]
    process = await trio.lowlevel.open_process(
        ["strace", *options, *chosen], stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    try:
        await _until_attached(process, len(chosen) // 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, process.stderr)
            yield process
            # It lets go of what it traces before it ends.
            process.terminate()
            await process.wait()
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stderr.aclose()


async def _until_attached(process: trio.Process, count: int) -> None:
    assert process.stderr is not None
    said = b""
    with trio.fail_after(PATIENCE_S):
        # One line for each, also for a thread that has ended meanwhile.
        while said.count(b" attached") + said.count(b" attach: ") < count:
            part = await process.stderr.receive_some()
            assert part, said.decode()
            said += part


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


@asynccontextmanager
async def open_record(tids: Sequence[int], directory: Path) -> AsyncIterator[Counter[str]]:
    """Count calls until the block ends; the counts are filled in at its end.

    Where several threads make the same call, the largest number that one of them makes counts.
    """
    counts: Counter[str] = Counter()
    path = directory / "calls"
    async with open_strace(tids, "-o", path):
        yield counts
    each: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for tid, call in re.findall(r"^(\d*) *(\w+)\(", path.read_text(), re.MULTILINE):
        each[tid][call] += 1
    for found in each.values():
        counts |= found
