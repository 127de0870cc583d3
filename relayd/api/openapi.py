"""The description of the API, an OpenAPI 3.1 document: `/openapi.json`, also kept in docs/."""

from collections.abc import Callable

from quart import Blueprint, Response


def openapi_blueprint(read: Callable[[], bytes] | None = None) -> Blueprint:
    """Return the route `/openapi.json`.

    Args:
        read: returns the document; that of the API if None.
    """
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json", endpoint="getOpenApi")
    async def document() -> Response:
        return Response((read or read_document)(), content_type="application/json")

    return routes


def read_document() -> bytes:
    """Return the document as JSON."""
    from importlib.resources import files

    return files("relayd.api").joinpath("openapi.json").read_bytes()
