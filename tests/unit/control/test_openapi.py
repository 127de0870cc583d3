"""The description of the control socket: its routes are those of the application."""

import json
import re
from types import SimpleNamespace
from typing import Any, cast

from relayd.api.status import OK, StatusReport
from relayd.control.app import read_document
from relayd.overview.nodes import NodesChoice
from relayd.service.control import Controls, control_app
from tests.support.project import DOCS

DOCUMENT = json.loads(read_document())
#: Methods of operations.
METHODS = {"get", "post"}


async def _checks() -> StatusReport:
    return StatusReport(configuration=OK)


def _routes() -> set[tuple[str, str, str]]:
    """Return path, method and operation of each route of the whole application."""
    nothing = cast("Any", SimpleNamespace(spools=(), nodes=None))  # only requests use more of it
    controls = Controls(_checks, nothing, nothing, (), nothing, nothing, nothing, nothing)
    return {
        (re.sub(r"<[^>]*>", "*", rule.rule), method.lower(), rule.endpoint.rpartition(".")[2])
        for rule in control_app(controls).url_map.iter_rules()
        for method in rule.methods or ()
        if method.lower() in METHODS
    }


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
    ]


async def test_the_document_has_every_route_and_no_other() -> None:
    """Paths, methods and names of operations are those of the application."""
    written = {
        (re.sub(r"\{[^}]*\}", "*", path), method, operation["operationId"])
        for path, method, operation in _operations()
    }
    assert written == _routes()


def test_every_operation_says_what_it_takes_and_answers() -> None:
    """Parts of a path and bodies are described, references lead somewhere, bad requests are 400."""
    for path, method, operation in _operations():
        parameters = operation.get("parameters", [])
        parts = {one["name"] for one in parameters if one["in"] == "path"}
        assert parts == set(re.findall(r"\{(\w+)\}", path)), path
        assert operation["summary"], path
        takes = "requestBody" in operation or any(one["in"] == "query" for one in parameters)
        assert ("400" in operation["responses"]) == takes, path
        assert takes or method == "get" or path == "/reload", path
    for reference in re.findall(r'"#/([^"]*)"', json.dumps(DOCUMENT)):
        place = DOCUMENT
        for key in reference.split("/"):
            place = place[key]


def test_parameters_of_the_nodes_are_those_of_the_choice() -> None:
    """A condition that the program knows can be looked up."""
    described = {one["name"] for one in DOCUMENT["paths"]["/nodes"]["get"]["parameters"]}
    assert described == set(NodesChoice.__struct_fields__)


def test_docs_have_the_same_document() -> None:
    """The published file is what the socket answers."""
    assert (DOCS / "openapi-control.json").read_bytes() == read_document()
