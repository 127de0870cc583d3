"""The decision about a run-log file by its name."""

import pytest

from relayd.errors import Reason, Refused
from relayd.fleet.admission import Admitted, Origin, admit
from tests.support.pipeline import make_nodes, name_of


def test_file_of_a_known_node_is_admitted() -> None:
    """The name gives node, date and archive form, the nodes give certificates and trust token."""
    nodes = make_nodes("node1", "node2")
    admission = admit(f"{name_of(7)}.gz", nodes)
    token = nodes.trust_token("node1")
    assert admission.decision == Admitted("gz", nodes.certificates("node1"))
    assert admission.origin == Origin("node1", "2026-03-01T00:07:00+00:00", token)
    assert token != nodes.trust_token("node2")


@pytest.mark.parametrize(
    ("name", "reason", "node_id"),
    [
        ("bob.log", Reason.BAD_NAME, None),
        (name_of(0, "stranger"), Reason.UNKNOWN_NODE, "stranger"),
        (name_of(0, "bare"), Reason.NO_CERTIFICATE, "bare"),
    ],
)
def test_other_files_are_refused(name: str, reason: Reason, node_id: str | None) -> None:
    """Each has its reason, and an origin if the name gives it."""
    admission = admit(name, make_nodes("node1", others=["bare"]))
    assert isinstance(admission.decision, Refused)
    assert admission.decision.reason is reason
    assert (admission.origin and admission.origin.node_id) == node_id
