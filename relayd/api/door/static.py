"""Files that agents read: policies, common files and the id of this server."""

from pathlib import Path

from quart import Response

from relayd.api.app import App, make_bare_app
from relayd.api.server.raw_path import rest_of_path
from relayd.api.shared_folder import SharedFolder, answer_file


def make_static_app(share: Path, node_id: str) -> App:
    """Return an application for the paths of `relayd.api.door.rules.STATIC`.

    Args:
        share: has a directory for each node, by its id, and `common`.
        node_id: of this server.
    """
    app = make_bare_app(__name__)
    folder = SharedFolder(share)

    @app.route("/policies/<rest:_path>", methods=["GET", "HEAD"], endpoint="getPolicies")
    async def policies(_path: str) -> Response:
        return await answer_file(folder, rest_of_path("/policies/", ""), "getPolicies")

    @app.route("/common/<rest:_path>", methods=["GET", "HEAD"], endpoint="getCommon")
    async def common(_path: str) -> Response:
        return await answer_file(folder, rest_of_path("/", ""), "getCommon")

    @app.route("/uuid", methods=["GET", "HEAD"], endpoint="getNodeId")
    async def uuid() -> Response:
        return Response(f"{node_id}\n", content_type="text/plain")

    return app
