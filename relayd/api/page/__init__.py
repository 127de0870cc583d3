"""The page for administrators at `GET /`: read-only, self-contained, live where scripts run.

What makes it is imported with its first request.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from quart import Blueprint, Response

if TYPE_CHECKING:
    from relayd.api.page.pages import Pages

#: Path, name of the endpoint, and the method of `Pages` that answers.
_ROUTES: Final = (
    ("/", "showPage", "start"),
    ("/events", "followPage", "events"),
    ("/nodes", "showNodes", "nodes"),
    ("/nodes/<rest:part>", "showNode", "node"),
    ("/failed/<rest:reason>", "showReason", "refused"),
    ("/files/<rest:name>", "showFile", "file"),
)


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

    @routes.before_request
    async def check_host() -> Response | None:
        return pages().refusal()

    def answering(method: str) -> Callable[..., Awaitable[Response]]:
        async def answer(**parts: str) -> Response:
            response: Response = await getattr(pages(), method)(**parts)
            return response

        return answer

    for path, endpoint, method in _ROUTES:
        routes.add_url_rule(path, endpoint, answering(method), methods=["GET"])
    return routes
