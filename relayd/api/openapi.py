"""The description of the API, an OpenAPI 3.1 document: `/openapi.json`, also kept in docs/."""

from quart import Blueprint, Response


def openapi_blueprint() -> Blueprint:
    """Return the route `/openapi.json`, relative to the base of the API."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json", endpoint="getOpenApi")
    async def document() -> Response:
        return Response(read_document(), content_type="application/json")

    return routes


def read_document() -> bytes:
    """Return the document as JSON."""
    from importlib.resources import files

    return files("relayd.api").joinpath("openapi.json").read_bytes()
