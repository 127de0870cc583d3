"""The application behind the control socket: one blueprint for each kind of operation."""

from collections.abc import Sequence
from importlib.resources import files

from quart import Blueprint, Response

from relayd.api.app import App, make_bare_app


def make_control_app(blueprints: Sequence[Blueprint]) -> App:
    """Return the application with these operations, and its own description."""
    app = make_bare_app(__name__)
    for blueprint in (*blueprints, _description_blueprint()):
        app.register_blueprint(blueprint)
    return app


def _description_blueprint() -> Blueprint:
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json", endpoint="getOpenApi")
    async def document() -> Response:
        return Response(read_document(), content_type="application/json")

    return routes


def read_document() -> bytes:
    """Return the description of the control socket, an OpenAPI 3.1 document, as JSON."""
    return files("relayd.control").joinpath("openapi.json").read_bytes()
