"""The application behind the control socket: one blueprint for each kind of operation."""

from collections.abc import Sequence
from importlib.resources import files

from quart import Blueprint

from relayd.api.app import App, make_bare_app
from relayd.api.openapi import openapi_blueprint


def make_control_app(blueprints: Sequence[Blueprint]) -> App:
    """Return the application with these operations, and its own description."""
    app = make_bare_app(__name__)
    for blueprint in (*blueprints, openapi_blueprint(read_document)):
        app.register_blueprint(blueprint)
    return app


def read_document() -> bytes:
    """Return the description of the control socket, an OpenAPI 3.1 document, as JSON."""
    return files("relayd.control").joinpath("openapi.json").read_bytes()
