"""Blocking work in threads, and what happens while none can be started."""

import subprocess
import sys
import threading

import pytest
import trio

from relayd.system.shortage import is_shortage
from relayd.system.threads import in_thread
from tests.support.project import ROOT


async def test_work_runs_in_a_thread_and_gives_its_result() -> None:
    """Arguments go in, the result comes out, and it is not the thread of the event loop."""
    where, answer = await in_thread(lambda x: (threading.get_ident(), x + 1), 1)
    assert where != threading.get_ident()
    assert answer == 2


async def test_errors_of_the_work_are_its_own() -> None:
    """What the work raises comes through at once, a RuntimeError included."""

    def fail(error: Exception) -> None:
        raise error

    for error in (RuntimeError("mine"), OSError(11, "mine")):
        with pytest.raises(type(error), match="mine"):
            await in_thread(fail, error)


async def test_limiter_is_respected_and_given_back() -> None:
    """The work holds one token of the limiter while it runs."""
    limiter = trio.CapacityLimiter(1)
    assert await in_thread(lambda: limiter.borrowed_tokens, limiter=limiter) == 1
    assert limiter.borrowed_tokens == 0


SHORTAGE = """
import resource, threading
import trio, trio.testing
from relayd.system.shortage import is_shortage
from relayd.system.threads import in_thread, observe_shortage

observe_shortage(lambda work: print("waits", work))
threading.stack_size(2**30)
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (2**29, before[1]))

async def main():
    limiter = trio.CapacityLimiter(1)
    try:
        await trio.to_thread.run_sync(print)
    except RuntimeError as error:
        print(is_shortage(error))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, limiter)
        await trio.testing.wait_all_tasks_blocked()
        print(limiter.borrowed_tokens)
        resource.setrlimit(resource.RLIMIT_AS, before)
    print(limiter.borrowed_tokens)

async def work(limiter):
    print(await in_thread(lambda: "done", limiter=limiter))

trio.run(main)
"""


def test_shortage_is_waited_for() -> None:
    """While the kernel refuses threads the work waits, which is reported once; then it is done."""
    done = subprocess.run(
        [sys.executable, "-c", SHORTAGE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == ["True", "waits <lambda>", "0", "done", "0"]


def test_other_errors_are_no_shortage() -> None:
    """Only what Python says when the kernel refuses a thread counts."""
    assert not is_shortage(RuntimeError("something else"))
