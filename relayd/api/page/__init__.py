"""The page for administrators at `GET /`: read-only, self-contained, live where scripts run.

What makes it is imported with its first request.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from quart import Blueprint, Response

if TYPE_CHECKING:
    from relayd.api.page.pages import Pages


def page_blueprint(make: "Callable[[], Pages]") -> Blueprint:
    """Return the routes of the page.

    Args:
        make: makes what answers them; called once, at the first request.
    """
    routes = Blueprint("page", __name__)
    made: list[Pages] = []

    def pages() -> "Pages":
        if not made:
            made.append(make())
        return made[0]

    def add(path: str, endpoint: str, answer: Callable[..., Awaitable[Response]]) -> None:
        routes.add_url_rule(path, endpoint, answer, methods=["GET"])

    async def start() -> Response:
        return await pages().start()

    async def events() -> Response:
        return await pages().events()

    async def nodes() -> Response:
        return await pages().nodes()

    async def node(part: str) -> Response:
        return await pages().node(part)

    async def refused(reason: str) -> Response:
        return await pages().refused(reason)

    async def file(name: str) -> Response:
        return await pages().file(name)

    add("/", "showPage", start)
    add("/events", "followPage", events)
    add("/nodes", "showNodes", nodes)
    add("/nodes/<rest:part>", "showNode", node)
    add("/failed/<rest:reason>", "showReason", refused)
    add("/files/<rest:name>", "showFile", file)
    return routes
