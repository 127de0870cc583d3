"""The answers of the page: documents, and the stream that keeps the first of them live."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec
import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from relayd.api.page.hosts import host_of
from relayd.api.page.html import HEADERS, Html, document, link, tag
from relayd.api.page.kept import Kept
from relayd.api.page.nodes import file_body, node_body, nodes_body, refused_body, search
from relayd.api.page.sections import sections
from relayd.config.durations import parse_duration
from relayd.errors import RelaydError
from relayd.overview.fleet import FilePlace, Refusals
from relayd.overview.model import Overview
from relayd.overview.nodes import NodesChoice, NodesPage
from relayd.overview.one_node import NodeDetail
from relayd.overview.summary import Summary
from relayd.spool.failed.refusals import ADVICE
from relayd.system.threads import in_thread
from relayd.telemetry.rates import Rates

#: Followers at once; a page that gets no stream refreshes itself.
FOLLOWERS: Final = 16
#: Seconds between two looks for a live page.
EVERY_S: Final = 3.0
#: Seconds for which counts of all nodes and of all files are kept: they may take a second each.
KEPT_S: Final = 30.0
#: Seconds for which a page waits for new ones.
WAIT_S: Final = 0.1
#: Nodes of one list.
_LISTED: Final = 200
#: Sections of the two columns of a wide screen.
_COLUMNS: Final = (("outputs", "nodes"), ("failed", "relays"))
_HTML: Final = "text/html; charset=utf-8"


class Source(Protocol):
    """Where the page gets what it shows.

    Attributes:
        rates: of the last day.
        stopping: set when relayd stops.
    """

    rates: Rates
    stopping: trio.Event

    @property
    def hosts(self) -> frozenset[str]:
        """Names under which it may be asked for."""

    async def overview(self) -> Overview:
        """Return the overview."""

    async def nodes(self, choice: NodesChoice, part: str, waiting: Mapping[str, int]) -> NodesPage:
        """Return nodes. Raises `RelaydError` for a choice that fits nothing."""

    async def summary(self, silent_s: float) -> Summary:
        """Return what there is to say of all nodes."""

    async def waiting(self) -> Mapping[str, int]:
        """Return how many files of each node wait. Raises `RelaydError` if they are unreadable."""

    async def node(self, part: str) -> NodeDetail:
        """Return all about a node. Raises `RelaydError` if there is none."""

    async def refused(self, reason: str, limit: int) -> Refusals:
        """Return refused files."""

    async def file(self, name: str) -> FilePlace:
        """Return where a file is."""


class Pages:
    """Makes the pages.

    Args:
        source: of what they show.
        nursery: for work that goes on after an answer.
    """

    def __init__(self, source: Source, nursery: trio.Nursery) -> None:
        self._source = source
        self._followers = 0
        self._summary = Kept(self._summarize, nursery, KEPT_S, WAIT_S)
        self._waiting = Kept(source.waiting, nursery, KEPT_S, WAIT_S)

    async def _summarize(self) -> Summary:
        overview = await self._source.overview()
        return await self._source.summary(overview.nodes.silent_after_s)

    async def start(self) -> Response:
        """Return the first page."""
        overview = await self._source.overview()
        period = _period()
        parts = await self._sections(overview, period)
        columns = [
            tag("div", *(_card(name, parts[name]) for name in names), class_="column")
            for names in _COLUMNS
        ]
        body = (
            link("#main", "To the content", class_="skip"),
            _header(overview, period),
            tag(
                "main",
                tag("p", parts["word"], id="word", class_="spoken", role="status", data_live=True),
                tag("div", parts["state"], id="state", data_live=True),
                tag("div", parts["figures"], id="figures", data_live=True),
                search(NodesChoice()),
                tag("div", *columns, class_="grid"),
                _card("warnings", parts["warnings"]),
                id="main",
            ),
        )
        title = f"{parts['word']} \N{EN DASH} {_server(overview)}"
        return _answer(document(title, "./", *body, live=True))

    def refusal(self) -> Response | None:
        """Return why the current request gets nothing, None if it may have an answer."""
        if host_of(request.headers.get("Host", "")) in self._source.hosts:
            return None
        text = "This page is not served under that host name."
        return Response(text, status=421, content_type="text/plain; charset=utf-8")

    async def _sections(self, overview: Overview, period: str) -> Mapping[str, Html]:
        rates = self._source.rates
        points = rates.day() if period == "day" else rates.hour()
        return sections(overview, points, period, await self._summary.get())

    async def events(self) -> Response:
        """Return the stream of changes of the first page (server-sent events)."""
        if self._followers >= FOLLOWERS:
            return Response("too many pages follow", status=503, content_type="text/plain")
        body = _Stream(self, _period(), self._source.stopping)
        return Response(body, content_type="text/event-stream", headers={**HEADERS})

    async def changes(self, shown: dict[str, Html], period: str) -> bytes:
        """Return the events for what differs from `shown`, which is updated.

        Args:
            shown: sections by their ids.
            period: of the charts.
        """
        overview = await self._source.overview()
        lines = []
        for name, content in (await self._sections(overview, period)).items():
            if shown.get(name) != content:
                shown[name] = content
                data = msgspec.json.encode({"id": name, "html": str(content)}).decode()
                lines.append(f"event: section\ndata: {data}\n\n")
        lines.append(f"event: tick\ndata: {overview.at:.0f}\n\n")
        return "".join(lines).encode()

    def follow(self, by: int) -> None:
        """Count a follower, or one less."""
        self._followers += by

    async def nodes(self) -> Response:
        """Return the list of nodes."""
        overview = await self._source.overview()
        wanted, status = request.args.get("q", ""), 200
        try:
            choice = _choice()
            waiting = await self._waiting.get()
            page = await self._source.nodes(choice, wanted, waiting or {})
            counted = waiting is not None
            content = await in_thread(nodes_body, page, choice, wanted, overview.at, counted)
        except (RelaydError, ValueError) as error:
            content, status = tag("p", str(error), class_="trouble"), 400
        return self._sub_page(overview, "Nodes", "", content, status=status)

    async def node(self, part: str) -> Response:
        """Return the page of one node."""
        overview = await self._source.overview()
        try:
            detail = await self._source.node(part)
        except RelaydError as error:
            content = tag("p", str(error), class_="trouble")
            return self._sub_page(overview, "No such node", "../", content, status=404)
        title = detail.row.hostname or detail.row.node_id
        return self._sub_page(overview, title, "../", node_body(detail, overview.at))

    async def refused(self, reason: str) -> Response:
        """Return the refused files with one reason."""
        overview = await self._source.overview()
        found = await self._source.refused(reason, _LISTED)
        content = refused_body(reason, found, overview.at)
        status = 200 if found.total or reason in ADVICE else 404
        return self._sub_page(overview, f"Refused: {reason}", "../", content, status=status)

    async def file(self, name: str) -> Response:
        """Return where a file is."""
        overview = await self._source.overview()
        found = await self._source.file(name)
        status = 200 if found.state != "unknown" else 404
        return self._sub_page(overview, name, "../", file_body(found, overview.at), status=status)

    def _sub_page(
        self, overview: Overview, title: str, base: str, content: Html, *, status: int = 200
    ) -> Response:
        main = tag("main", tag("section", tag("h1", title), content, class_="card"), id="main")
        home = link(base or "./", _server(overview))
        nodes = link(f"{base}nodes", "Nodes")
        header = tag("header", tag("nav", home, " ", nodes, aria_label="Pages"))
        footer = tag("footer", f"As of {_clock(overview.at)}.")
        skip = link("#main", "To the content", class_="skip")
        title = f"{title} \N{EN DASH} {_server(overview)}"
        return _answer(document(title, base, skip, header, main, footer, live=False), status)


class _Stream(ResponseBody):
    """Sends what has changed every few seconds, until its reader leaves or relayd stops."""

    def __init__(self, pages: Pages, period: str, stopping: trio.Event) -> None:
        self._pages = pages
        self._period = period
        self._stopping = stopping
        self._shown: dict[str, Html] = {}
        self._begun = False

    async def __aenter__(self) -> Self:
        self._pages.follow(1)
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._pages.follow(-1)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._begun:
            with trio.move_on_after(EVERY_S):
                await self._stopping.wait()
        if self._stopping.is_set():
            raise StopAsyncIteration
        self._begun = True
        return await self._pages.changes(self._shown, self._period)


def _period() -> str:
    return "day" if request.args.get("period") == "day" else "hour"


def _answer(content: bytes, status: int = 200) -> Response:
    return Response(content, status=status, content_type=_HTML, headers={**HEADERS})


def _card(name: str, content: Html) -> Html:
    return tag(
        "section",
        content,
        id=name,
        class_="card",
        aria_labelledby=f"{name}-title",
        data_live=True,
    )


def _server(overview: Overview) -> str:
    return f"relayd on {overview.hostname or overview.node_id}"


def _header(overview: Overview, period: str) -> Html:
    other = "day" if period == "hour" else "hour"
    name = overview.hostname or overview.node_id
    role = "root server" if overview.role == "root" else "relay"
    return tag(
        "header",
        tag("span", f"relayd {overview.version}, {role} {name}"),
        tag("span", f"As of {_clock(overview.at)}", id="age"),
        tag(
            "nav",
            f"Charts: last {period}. ",
            link(f"?period={other}", f"Last {other}"),
            " ",
            link("nodes", "All nodes"),
            aria_label="Pages",
        ),
    )


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))


def _choice() -> NodesChoice:
    given: Mapping[str, Any] = request.args
    silent = given.get("silent")
    return msgspec.convert(
        {
            "silent": parse_duration(silent) if silent else None,
            "failing": bool(given.get("failing")),
            "relay": given.get("relay") or None,
            "sort": given.get("sort") or "silence",
            "limit": _LISTED,
        },
        NodesChoice,
    )
