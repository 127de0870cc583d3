"""Files that agents read: policies, common files and the id of this server."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from quart import Response

from relayd.api.app import App, make_bare_app
from relayd.api.server.raw_path import rest_of_path
from relayd.api.shared_folder import SharedFolder, answer_file
from relayd.shared.paths import directory_of

#: Directory of the files for all nodes, beside those of each node.
COMMON: Final = b"common"


def make_static_app(share: Path, node_id: str) -> App:
    """Return an application for the paths of `relayd.api.door.rules.STATIC`.

    Args:
        share: has a directory for each node, by its id, and `common`. No file outside of the
            directory in question is served, whatever links are in it.
        node_id: of this server.
    """
    app = make_bare_app(__name__)
    folder = SharedFolder(share)
    for_all = replace(folder, path=directory_of(share, COMMON))

    @app.route("/policies/<rest:_path>", methods=["GET", "HEAD"], endpoint="getPolicies")
    async def policies(_path: str) -> Response:
        node, _, rest = rest_of_path("/policies/", "").partition(b"/")
        own = replace(folder, path=directory_of(share, node))
        return await answer_file(own, rest, "getPolicies")

    @app.route("/common/<rest:_path>", methods=["GET", "HEAD"], endpoint="getCommon")
    async def common(_path: str) -> Response:
        rest = rest_of_path("/common/", "")
        return await answer_file(for_all, rest, "getCommon")

    @app.route("/uuid", methods=["GET", "HEAD"], endpoint="getNodeId")
    async def uuid() -> Response:
        return Response(f"{node_id}\n", content_type="text/plain")

    return app
