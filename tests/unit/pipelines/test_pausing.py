"""Pauses: kept over a restart, ended in time, and without effect if their file is broken."""

import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.overview.model import Kind
from relayd.pipelines.pausing import (
    FILE,
    KINDS,
    NotProcessedError,
    PauseError,
    PauseFile,
    Pausing,
    begin_pause,
    to_pause,
)
from relayd.telemetry.metrics import Metrics
from tests.support.metrics import value


class _Wall:
    """A wall clock that follows Trio's."""

    def __init__(self) -> None:
        self.set_by = 1_000_000.0

    def __call__(self) -> float:
        return self.set_by + trio.current_time()


async def test_pause_survives_a_restart_and_ends_by_itself(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """What is paused is closed, also after a restart, until its time has come."""
    del autojump_clock
    wall, metrics = _Wall(), Metrics()
    await Pausing(PauseFile(tmp_path), Metrics(), wall).begin(["reporting"], "root", 600.0)
    pausing = Pausing(PauseFile(tmp_path), metrics, wall)
    await pausing.load()
    assert pausing.pause is not None
    assert (pausing.pause.by, pausing.pause.kinds) == ("root", ("reporting",))
    assert pausing.valves["reporting"].closed
    assert not pausing.valves["inventories"].closed
    assert value(metrics.render(), "rudder_relayd_paused", kind="reporting") == 1.0
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pausing.run)
        await pausing.valves["reporting"].wait_open()
        assert trio.current_time() - began == pytest.approx(600.0)
        assert _kinds(pausing) == ()
        # The clock is set back to before its end: the file does not have it any longer.
        wall.set_by -= 700.0
        await pausing.begin(["inventories"], "ann", None)
        assert _kinds(pausing) == ("inventories",)
        # A pause without an end, and one that is ended by hand.
        await pausing.begin(["reporting", "inventories"], "ann", None)
        assert await pausing.end(["inventories"]) == ["inventories"]
        assert await pausing.end(["inventories"]) == []
        await trio.sleep(86_400.0)
        assert pausing.valves["reporting"].closed
        nursery.cancel_scope.cancel()
    later = Pausing(PauseFile(tmp_path), Metrics(), wall)
    await later.load()
    assert _kinds(later) == ("reporting",)


@pytest.mark.parametrize(
    ("asked", "processed", "found"),
    [
        ((), KINDS, KINDS),
        ((), ("reporting",), ("reporting",)),
        (("inventories",), KINDS, ("inventories",)),
        (("inventories",), ("reporting",), 'processing.inventory.output is "disabled"'),
        (("reporting",), (), 'processing.reporting.output is "disabled"'),
        ((), (), "are not processed here"),
    ],
)
def test_only_what_is_processed_can_be_paused(
    asked: tuple[Kind, ...], processed: tuple[Kind, ...], found: tuple[Kind, ...] | str
) -> None:
    """A pause of what the settings switch off is refused, with the key that does."""
    if isinstance(found, tuple):
        assert to_pause(asked, processed) == found
        return
    with pytest.raises(NotProcessedError, match=found):
        to_pause(asked, processed)


def _kinds(pausing: Pausing) -> tuple[str, ...]:
    return () if pausing.pause is None else pausing.pause.kinds


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"paused": {"x": 1}}',
        b"\xff" * 70_000,
        b'{"paused": {"reporting": {"by": "\xff", "since": 1}}}',
        b'{"x": ' * 10_000,
    ],
)
async def test_broken_file_pauses_nothing(tmp_path: Path, content: bytes) -> None:
    """A file that is none does not stop relayd, and a new pause is not made on top of it."""
    (tmp_path / FILE).write_bytes(content)
    pausing = Pausing(PauseFile(tmp_path), Metrics())
    await pausing.load()
    assert pausing.pause is None
    with pytest.raises(PauseError, match=FILE):
        await pausing.begin(["reporting"], "root", None)
    assert not pausing.valves["reporting"].closed


async def test_without_a_place_to_keep_it_there_is_no_pause(tmp_path: Path) -> None:
    """A pause that a restart would end without a word is not made."""
    pausing = Pausing(PauseFile(tmp_path / "missing"), Metrics())
    await pausing.load()
    with pytest.raises(PauseError):
        await pausing.begin(["reporting"], "root", None)
    assert pausing.pause is None


def test_a_planted_link_or_the_rest_of_a_kill_is_replaced(tmp_path: Path) -> None:
    """Root writes into a directory of the service user, who can read it whatever root's mask."""
    state, other = tmp_path / "state", tmp_path / "other"
    state.mkdir()
    other.write_text("untouched")
    (state / f".{FILE}.new").symlink_to(other)
    mask = os.umask(0o077)
    try:
        begin_pause(PauseFile(state), KINDS, "root", None, 1.0)
    finally:
        os.umask(mask)
    assert other.read_text() == "untouched"
    assert [path.name for path in state.iterdir()] == [FILE]
    assert stat.S_IMODE((state / FILE).stat().st_mode) == 0o644
