"""Timing on a busy machine: contenders alternate, and medians of ratios are compared."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

#: Name of a contender → its figure in each round, all in the same unit.
Rounds = dict[str, list[float]]

_CLOCK_TICK_S: Final = 0.01


def say(text: str) -> None:
    """Print progress to standard error; standard output is only for the table."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Run every contender once per round, so that a slow minute affects all of them.

    Every other round runs in reverse order, so that no contender benefits from its position.
    """
    figures: Rounds = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            figures[name].append(contenders[name]())
        shown = ", ".join(f"{name} {figures[name][-1]:.4g}" for name in names)
        say(f"round {number + 1} of {rounds}: {shown}")
    return figures


def median(figures: Rounds, name: str) -> float:
    """Return the median figure of a contender."""
    return statistics.median(figures[name])


def ratio(figures: Rounds, name: str, other: str) -> float:
    """Return the median over all rounds of the ratio `name` to `other` in the same round."""
    pairs = zip(figures[name], figures[other], strict=True)
    return statistics.median(one / two for one, two in pairs)


def seconds_per_call(call: Callable[[], object], budget_s: float = 0.3) -> float:
    """Call repeatedly for about `budget_s` and return the mean CPU time of one call.

    Only the CPU time of this process and its ended children counts, so that other load on the
    machine has little effect.
    """
    calls = 0
    begin, used = time.perf_counter(), _cpu_so_far()
    while time.perf_counter() - begin < budget_s:
        call()
        calls += 1
    return (_cpu_so_far() - used) / calls


def _cpu_so_far() -> float:
    return time.process_time() + ended_children_cpu()


def ended_children_cpu() -> float:
    """Return the CPU seconds of all children that ended and were waited for (getrusage(2))."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_seconds(pid: int, *, with_ended_children: bool = False) -> float:
    """Return the CPU time a process has used so far, user and system (proc_pid_stat(5)).

    0 for a process that is gone: its parent has its time among that of ended children.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    used = int(fields[11]) + int(fields[12])
    if with_ended_children:
        used += int(fields[13]) + int(fields[14])
    return used * _CLOCK_TICK_S


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process (`VmHWM` of proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no VmHWM")


def children(pid: int) -> list[int]:
    """Return the process ids of the direct children (proc_pid_task_children(5))."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
