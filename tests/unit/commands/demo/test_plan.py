"""The failovers of a demo: in the order of the plan, and those of keys."""

import os
import pty
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import cast

import pytest
import trio

from relayd.commands.demo.cluster import plan
from relayd.commands.demo.cluster.cluster import Cluster
from relayd.commands.demo.cluster.failovers import FAILOVERS, Failover
from relayd.commands.demo.cluster.plan import Failing, read_keys


class Primary:
    """A machine that is always the primary."""

    name = "db1"


class CalmCluster:
    """A cluster that is always whole, and to which something is always written."""

    def __init__(self) -> None:
        self.questions = 0

    async def healthy(self) -> None:
        """Return at once."""

    async def primary(self) -> Primary:
        """Return the only machine."""
        return Primary()

    def psql(self, sql: str) -> str:
        """Return the same number for each question."""
        self.questions += 1
        return "2.5\n"


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Yield the two ends of a terminal: the user's, and the program's."""
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for descriptor in ends:
            os.close(descriptor)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let failovers only be recorded, in the list returned."""
    found: list[str] = []

    def fake(name: str) -> Failover:
        async def run(_: Cluster) -> None:
            found.append(name)

        return Failover(FAILOVERS[name].key, f"{name} begins.", run)

    fakes = {name: fake(name) for name in FAILOVERS}
    monkeypatch.setattr(plan, "FAILOVERS", MappingProxyType(fakes))
    return found


async def test_the_plan_comes_first_and_keys_start_more(done: list[str]) -> None:
    """Each failover is followed by its time without commits; a key repeats one after the plan."""
    said: list[str] = []
    stop = trio.Event()
    with terminal() as (user, program):

        def say(sentence: str) -> None:
            said.append(sentence)
            if "Normal work goes on" in sentence:
                if len(done) == 3:
                    stop.set()
                else:
                    os.write(user, b"xM")

        cluster = cast("Cluster", CalmCluster())
        failing = Failing(cluster, ["etcd", "switchover"], 0.001, stop, say, program)
        with trio.fail_after(30):
            await failing.run()
    assert done == ["etcd", "switchover", "machine"]
    assert failing.happened == [f"{name}: db1 to db1, 2.5 s without commits." for name in done]
    assert "m machine" in said[0]
    assert "machine begins." in said


async def test_without_a_plan_or_keys_only_work_goes_on(done: list[str]) -> None:
    """A stop ends it; nothing has happened, and nothing needs to be restored."""
    stop = trio.Event()
    failing = Failing(cast("Cluster", CalmCluster()), [], 0.001, stop, lambda _: stop.set(), None)
    with trio.fail_after(30):
        await failing.run()
        await failing.restored(1_000_000)
    assert done == failing.happened == []


async def test_keys_leave_the_terminal_as_it_was() -> None:
    """A key counts without Enter; the terminal's modes are restored."""
    send, received = trio.open_memory_channel[str](1)
    with terminal() as (user, program):
        before = termios.tcgetattr(program)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_keys, program, send)
            os.write(user, b"f")
            with trio.fail_after(30):
                assert await received.receive() == "freeze"
            assert termios.tcgetattr(program) != before
            nursery.cancel_scope.cancel()
        assert termios.tcgetattr(program) == before


async def test_a_closed_terminal_ends_the_reading_of_keys() -> None:
    """That the user has gone is no error of the demo."""
    send, received = trio.open_memory_channel[str](1)
    user, program = pty.openpty()
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_keys, program, send)
                os.write(user, b"f")
                await received.receive()
                os.close(user)
    finally:
        os.close(program)
