"""Files of nodes on hold are set aside, and operators claim what they move."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relayd.pipelines.aside import Aside
from relayd.spool.layout import Spool, run_log_spool
from relayd.spool.operations.act import MOVING
from relayd.spool.operations.rules import change_rules, rules_path
from relayd.spool.pending import Pending

NAME = "2026-03-01T12:00:00+00:00@web.log"
OTHER = "2026-03-01T12:00:00+00:00@db.log"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = run_log_spool(tmp_path)
    spool.watched[0].mkdir()
    (spool.watched[0] / NAME).touch()
    return spool


@asynccontextmanager
async def running(
    spool: Spool, pending: Pending, rescan: Callable[[], None] = lambda: None
) -> AsyncIterator[Aside]:
    """Set files of the node "web" aside."""
    aside = Aside(spool, "incoming", pending, rescan)
    change_rules(spool, add=["web"])
    await aside.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aside.run)
        yield aside
        nursery.cancel_scope.cancel()


async def settled(pending: Pending) -> None:
    """Wait until no file is in flight."""
    with trio.fail_after(20):
        while pending.in_flight:
            await trio.sleep(0.001)


async def test_files_of_the_node_leave_the_directory_and_others_do_not(spool: Spool) -> None:
    """A file is set aside once and forgotten; the next stage never sees it."""
    pending = Pending()
    async with running(spool, pending) as aside:
        for name in (NAME, OTHER):
            pending.claim(name)
        assert (aside.take(NAME), aside.take(OTHER)) == (True, False)
        pending.release(OTHER)
        await settled(pending)
    assert NAME not in pending
    assert (spool.on_hold / "incoming" / NAME).exists()


async def test_a_file_whose_node_is_released_meanwhile_is_sent_again(spool: Spool) -> None:
    """It is not left behind on hold, where nobody would look for it."""
    pending = Pending()
    async with running(spool, pending) as aside:
        with MOVING:
            pending.claim(NAME)
            assert aside.take(NAME)
            await wait_all_tasks_blocked()
            aside.note_nodes(())
        await settled(pending)
    assert pending.returned == [NAME]
    assert (spool.watched[0] / NAME).exists()


@pytest.mark.fault("F18")
async def test_newer_files_of_a_released_node_come_after_those_that_are_sent_again(
    spool: Spool,
) -> None:
    """What arrives while older ones are put back joins them; the directory is listed before."""
    pending, rescans = Pending(), list[list[str]]()
    newer = NAME.replace("12:00", "12:05")
    (spool.watched[0] / newer).touch()
    async with running(spool, pending, lambda: rescans.append(list(pending.returned))) as aside:
        with MOVING:
            pending.claim(NAME)
            assert aside.take(NAME)
            await wait_all_tasks_blocked()
            aside.note_nodes(())
            pending.claim(newer)
            assert aside.take(newer)
        await settled(pending)
        assert pending.returned == [NAME, newer]
        assert rescans == [[]]
        pending.claim(NAME)
        assert not aside.take(NAME)


async def test_a_file_that_cannot_be_set_aside_waits_and_is_not_processed(spool: Spool) -> None:
    """A node on hold stays so even where no file can be moved."""
    pending = Pending()
    async with running(spool, pending) as aside:
        (spool.on_hold / "incoming").write_text("in the way")
        pending.claim(NAME)
        assert aside.take(NAME)
        await settled(pending)
    assert NAME in pending
    assert pending.has_failed(NAME)
    assert (spool.watched[0] / NAME).exists()


async def test_rules_that_cannot_be_read_hold_up_no_start(spool: Spool) -> None:
    """An error is logged, and files are processed."""
    aside = Aside(spool, "incoming", Pending())
    change_rules(spool, add=["web"])
    rules_path(spool).write_text("{")
    await aside.load()
    assert not aside.take(NAME)


async def test_operators_claim_what_is_not_in_flight(autojump_clock: MockClock) -> None:
    """What is given back is sent again or forgotten; a file that waits can be tried at once."""
    pending = Pending()
    pending.claim("busy")
    pending.claim("waits")
    pending.retry("waits", floor=100.0)
    assert pending.attempts()["waits"][:2] == (False, 1)
    assert pending.hurry(["waits", "busy", "unknown"]) == ["waits"]
    assert pending.take_due(5) == ["waits"]
    assert pending.take_over(["busy", "a", "b"]) == ["a", "b"]
    assert not pending.claim("a")  # a newer file of this name arrives meanwhile
    pending.give_back(["a"], ["b"])
    assert pending.returned == ["b"]
    assert pending.take_due(5) == ["a"]
    assert pending.is_in_flight("busy")
