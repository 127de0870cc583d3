"""The screens of `relayd top`, with an answering relayd of this process's own."""

from typing import Any

import pytest
from rich.console import Console

from relayd.commands.top.command import Feed, Screen
from relayd.commands.top.views import MenuView, Page, Row, View
from relayd.control.client import NotPermittedError, NotRunningError
from relayd.overview.documents import as_document, from_document
from relayd.overview.model import FailedState, NodesState, Overview
from relayd.overview.nodes import NodeRow, NodesPage
from relayd.overview.one_node import NodeDetail

NOW = 1_000_000.0
LONG = f"{'h' * 250}.test"
ROWS = tuple(
    NodeRow(node_id=f"id{n}", hostname=f"web-{n}.test", last_arrival=NOW - 60 * n, last_hour=12)
    for n in range(100)
)
OVERVIEW = Overview(
    at=NOW,
    state="keeping_up",
    sentence="Keeping up.",
    version="1.0",
    role="root",
    node_id="root",
    kinds=("reporting",),
    nodes=NodesState(known=100, silent=85),
    failed=FailedState(files=3, bytes=10, reasons={"signature": 3}),
)


class _Control:
    """Answers as the control socket does."""

    def get(self, target: str, **query: object) -> Any:
        del query
        if target == "/status":
            return as_document(OVERVIEW)
        if target == "/nodes":
            return as_document(NodesPage(rows=ROWS, total=100, known=100, observed_s=60.0))
        row = from_document({"node_id": target.removeprefix("/nodes/"), "hostname": "x"}, NodeRow)
        return as_document(NodeDetail(row=row, server="root.test", role="root"))


class _Down:
    def get(self, target: str, **query: object) -> Any:
        del target, query
        raise NotRunningError("relayd does not listen on /run/x")


def _answer(feed: Feed) -> None:
    """Do what the thread of a feed does once."""
    feed.ask()


def _drawn(screen: Screen, feed: Feed, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(screen.draw(feed, console))
    return captured.get().splitlines()


def test_arrows_lead_from_the_menu_to_a_node_and_back() -> None:
    """Right opens what is chosen, left goes back to the same row."""
    feed, screen = Feed(_Control(), MenuView()), Screen()  # type: ignore[arg-type]
    screen.press([], feed)
    _answer(feed)
    assert any("> nodes by waiting files" in line for line in _drawn(screen, feed))
    screen.press(["down", "right"], feed)
    _answer(feed)
    lines = _drawn(screen, feed)
    assert any(line.startswith("> web-0.test") for line in lines)
    screen.press(["down", "down", "right"], feed)
    _answer(feed)
    assert any("id2" in line for line in _drawn(screen, feed))
    screen.press(["left"], feed)
    _answer(feed)
    assert any(line.startswith("> web-2.test") for line in _drawn(screen, feed))
    assert screen.press(["left"], feed)
    _answer(feed)
    assert any("> nodes by run logs an hour" in line for line in _drawn(screen, feed))
    assert not screen.press(["quit"], feed)


@pytest.mark.parametrize("width", [80, 132])
@pytest.mark.parametrize("keys", [[], ["right"], ["right", "end"]])
def test_every_screen_fits(width: int, keys: list[Any]) -> None:
    """No screen has more lines than the terminal, or longer ones."""
    feed, screen = Feed(_Control(), MenuView()), Screen()  # type: ignore[arg-type]
    screen.press([], feed)
    _answer(feed)
    for key in keys:
        screen.press([key], feed)
        _answer(feed)
        lines = _drawn(screen, feed, width)
        assert len(lines) <= 24
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("width", "columns"), [(80, 6), (60, 4), (40, 2)])
def test_a_long_name_is_cut_and_numbers_are_not(width: int, columns: int) -> None:
    """Only the widest column gets narrower; where that is not enough, the last ones go."""
    heads = ["NODE", "LAST LOG", "WAIT", "FAILED", "/HOUR", "THROUGH"]
    cells = (LONG, "10 min ago", "1,234,567", "12", "12", "relay")
    page = Page(("NODE", "LAST LOG", ">WAIT", ">FAILED", ">/HOUR", "THROUGH"), [Row(cells, "a")])
    feed, screen = Feed(_Control(), MenuView()), Screen()  # type: ignore[arg-type]
    screen.press([], feed)
    feed.page = page
    lines = _drawn(screen, feed, width)
    (head,) = (line for line in lines if line.startswith("NODE"))
    assert head.replace("LAST LOG", "LAST-LOG").split() == [
        name.replace(" ", "-") for name in heads[:columns]
    ]
    (row,) = (line for line in lines if "hhh" in line)
    assert "…" in row[:40]
    assert all(cell in row for cell in cells[1:columns])
    assert max(map(len, lines)) <= width


def test_low_terminals_show_what_is_chosen() -> None:
    """Where not everything fits, the menu and the help come before the figures."""
    feed, screen = Feed(_Control(), MenuView()), Screen()  # type: ignore[arg-type]
    screen.press([], feed)
    _answer(feed)
    lines = _drawn(screen, feed, height=12)
    assert len(lines) <= 12
    assert any(line.startswith("> nodes by waiting files") for line in lines)
    assert lines[-1].startswith("up/down")


def test_relayd_that_is_down_is_said_so() -> None:
    """What was shown before stays, below the reason why it is old."""
    feed, screen = Feed(_Down(), MenuView()), Screen()  # type: ignore[arg-type]
    screen.press([], feed)
    _answer(feed)
    assert _drawn(screen, feed)[0].startswith("relayd cannot be asked: relayd does not listen")
    view: View = feed.view
    assert view.title == "Show"


class _Denied:
    def get(self, target: str, **query: object) -> Any:
        del target, query
        raise NotPermittedError("only the members of group x may use it")


def test_a_user_who_may_not_ask_does_not_stay_on_an_empty_screen() -> None:
    """That does not change while the program runs, so it ends."""
    feed, screen = Feed(_Denied(), MenuView()), Screen()  # type: ignore[arg-type]
    assert screen.press([], feed)
    _answer(feed)
    assert not screen.press([], feed)
    assert feed.denied is not None
